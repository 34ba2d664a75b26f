"""A command line becomes Options, or the whole list of what is wrong with it: syntax, values and combinations together.

Pure but for the one file a flag may name, which the caller reads. What only the node can show is `node_faults`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from kube_router.config.faults import Fault
from kube_router.config.flag_table import FLAGS
from kube_router.config.not_yet import not_yet_faults
from kube_router.config.options import DEFAULT_CNI_CONF_FILE, Options, defaults
from kube_router.config.passwords import decode_passwords, split_file
from kube_router.config.pflag import Reading, read
from kube_router.config.rules import RULES, canonical_cidr

PASSWORDS: Final = "peer-router-passwords"
PASSWORDS_FILE: Final = "peer-router-passwords-file"
CIDR_LISTS: Final = (
    "datapath_network",
    "excluded_cidrs",
    "loadbalancer_ip_range",
    "pod_egress_excluded_cidrs",
    "service_cluster_ip_range",
    "service_external_ip_range",
)


def parse(arguments: Sequence[str], environ: Mapping[str, str], read_file: Callable[[str], str]) -> Options | tuple[Fault, ...]:
    """Options of these arguments (without the program's name), or every fault in them, at least one.

    `read_file` gives the text of a file and raises OSError or UnicodeDecodeError. With --help or --version only syntax
    counts, and the values are not judged.
    """
    reading = read(arguments)
    given = {flag.attribute: reading.values[flag.name] for flag in FLAGS if flag.name in reading.values}
    items = given.pop("peer_router_passwords", ())
    if not reading.faults and (given.get("help") or given.get("version")):
        return defaults(**given)
    faults = [*reading.faults, *_value_faults(reading)]
    if not items and PASSWORDS not in reading.unreadable and given.get("peer_router_passwords_file"):
        items = _file_items(given["peer_router_passwords_file"], read_file, reading, faults)
    given["peer_router_passwords"] = _passwords(items, reading, faults)
    options = defaults(**(given | _environment(given.get("hostname_override", ""), environ)))
    for rule in RULES:
        if reading.unreadable.isdisjoint(rule.reads):
            faults.extend(rule.find(options))
    if not options.cleanup_config:
        named = {fault.flag for fault in faults}
        faults.extend(fault for fault in not_yet_faults(options) if fault.flag not in named)
    return tuple(faults) or canonical(options)


def canonical(options: Options) -> Options:
    """The same options with the CIDRs of lists in canonical text; for options that passed the rules."""
    lists: dict[str, Any] = {name: tuple(dict.fromkeys(canonical_cidr(cidr) for cidr in getattr(options, name))) for name in CIDR_LISTS}
    return replace(options, **lists)


def _value_faults(reading: Reading) -> Iterator[Fault]:
    for flag in FLAGS:
        if flag.check is None or flag.name not in reading.values or flag.name in reading.unreadable:
            continue
        if not flag.check.accepts(reading.values[flag.name]):
            yield Fault(f"--{flag.name}", reading.texts[flag.name], "not accepted", f"give {flag.check.wants}")


def _environment(override: str, environ: Mapping[str, str]) -> dict[str, str]:
    return {
        "node_name": override or environ.get("NODE_NAME", ""),
        "cni_conf_file": environ.get("KUBE_ROUTER_CNI_CONF_FILE") or DEFAULT_CNI_CONF_FILE,
        "pod_name": environ.get("POD_NAME", ""),
        "pod_namespace": environ.get("POD_NAMESPACE", ""),
    }


def _file_items(path: str, read_file: Callable[[str], str], reading: Reading, faults: list[Fault]) -> Sequence[str]:
    try:
        return split_file(read_file(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a text"
        faults.append(Fault(f"--{PASSWORDS_FILE}", path, f"cannot be read: {reason}", "give a readable file"))
        reading.unreadable.add(PASSWORDS)
        return ()


def _passwords(items: Sequence[str], reading: Reading, faults: list[Fault]) -> tuple[Any, ...]:
    try:
        return decode_passwords(items)
    except ValueError as error:
        flag = PASSWORDS if PASSWORDS in reading.values else PASSWORDS_FILE
        faults.append(Fault(f"--{flag}", None, str(error), "give passwords in base64, separated by commas"))
        reading.unreadable.add(PASSWORDS)
        return ()
