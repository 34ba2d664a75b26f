"""What the daemon and the tools that it runs really ask of the kernel: strace of one life of it, read for writes.

Every netlink message is looked at (links, addresses, routes, sets, nftables, flows), with what legacy iptables hands over as a
socket option and with files that are opened for writing. What is not known to be a question counts as a write.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from lab.node import Node

FILE = "/run/trace"
_CALLS = "sendto,sendmsg,sendmmsg,setsockopt,openat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat"
# -D: the traced process stays our child, so that signals and waiting reach it; -s, abbrev: batches in full, texts short
STRACE = ("strace", "-D", "-f", "-qq", "--seccomp-bpf", "-s", "64", "-e", "abbrev=none", "-o", FILE, "-e", f"trace={_CALLS}")

_TYPE = re.compile(r"nlmsg_type=(?:NFNL_SUBSYS_\w+<<8\|)?(\w+)")
# nlctrl names families of generic netlink, and can do nothing else
_QUESTION = re.compile(r"nlctrl$|RTM_GET|NFT_MSG_GET|IPSET_CMD_(LIST|SAVE|PROTOCOL|HEADER|TYPE|GET_)|IPCTNL_MSG_CT_GET|NFNL_MSG_COMPAT_GET")
_DUMPED = re.compile(r"nlmsg_type=fou, nlmsg_flags=[^,]*NLM_F_DUMP")
_FRAME = re.compile(r"NFNL_MSG_BATCH_(BEGIN|END)|NLMSG_(NOOP|DONE)")
_OPENED = re.compile(r'openat\(\w+, "([^"]+)", [^)]*O_(?:WRONLY|RDWR)')
_MOVED = re.compile(r'(?:rename|unlink|mkdir)\w*\(.*?"([^"]+)"')
_STATE = ("/proc/sys/", "/sys/", "/etc/", "/var/lib/")  # files that are state of the node; locks in /run are none
_REPLACED = re.compile(r"setsockopt\(\d+, SOL_IPV?6?, (IP6?T_SO_SET_REPLACE)")
_RTM_FIRST, _RTM_GET, _RTM_LAST = 16, 2, 127  # <linux/rtnetlink.h>: types come in fours: new, del, get, set


def start_traced(node: Node) -> None:
    """Start the node's daemon with the flags of the last time, under strace."""
    plain = node.daemon.command
    node.daemon.command = [*STRACE, *plain]
    try:
        node.start_daemon()
    finally:
        node.daemon.command = plain


def writes(node: Node) -> Counter[str]:
    """Writes of the traced daemon so far, and of what it started: "IPSET_CMD_ADD", "RTM_NEWROUTE", "/etc/cni/net.d/..."."""
    return Counter(_writes(node.file(FILE).read_text(errors="replace")))


def _writes(text: str) -> Iterator[str]:
    for line in text.splitlines():
        for kind in _TYPE.findall(_DUMPED.sub("", line)):
            if not (_QUESTION.match(kind) or _FRAME.match(kind) or _asks(kind)):
                yield kind
        for pattern in (_OPENED, _MOVED):
            if (found := pattern.search(line)) and found[1].startswith(_STATE) and "= -1 " not in line:
                yield found[1]
        if found := _REPLACED.search(line):
            yield found[1]


def _asks(kind: str) -> bool:
    """A number instead of a name: strace did not see which protocol the socket speaks; types of rtnetlink are known by number."""
    if not kind.startswith("0x"):
        return False
    number = int(kind, 16)
    return _RTM_FIRST <= number <= _RTM_LAST and number % 4 == _RTM_GET
