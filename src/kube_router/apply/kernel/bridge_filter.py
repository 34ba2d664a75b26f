"""The kernel's module for packets that cross a bridge and are to pass iptables on the way (net/bridge/br_netfilter_hooks.c).

Our bridge asks for it by an attribute of its own. But with the module comes a switch for all bridges of the host, which stands on: whoever
has other bridges, for virtual machines, would suddenly see their packets judged. So where it is us who load it, that switch goes off again.
A module that was there before was set up by somebody, and stays as it is.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

MODULE: Final = "br_netfilter"
_FOLDER: Final = Path("/proc/sys/net/bridge")
_FOR_ALL: Final = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables")


def modprobe() -> None:
    """Load it; where that cannot be done, that it is missing shows by its sysctls."""
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["modprobe", MODULE], capture_output=True, timeout=30, check=False)


def load(folder: Path = _FOLDER, load_module: Callable[[], None] = modprobe) -> None:
    """Load the module where it is not, and leave other bridges as they were."""
    if folder.exists():
        return
    load_module()
    for name in _FOR_ALL:
        with suppress(OSError):
            if (folder / name).exists():
                (folder / name).write_text("0")
