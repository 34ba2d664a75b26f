"""The text of --help, in the shape Go's flag library gives it: name, type, explanation, default where it is not zero."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from kube_router.config.duration import SECOND, format_duration
from kube_router.config.flag_table import FLAGS
from kube_router.config.flags import Flag

WIDTH: Final = 130
OURS: Final = "(ours) "
FOOTNOTE: Final = "Flags marked (ours) are unknown to kube-router v2.11."


def usage(program: str, flags: Iterable[Flag] = FLAGS) -> str:
    """The whole help text, ending in a newline."""
    rows = [(_name(flag), _explanation(flag)) for flag in flags]
    indent = max(len(name) for name, _ in rows) + 3
    lines = [f"Usage of {program}:"]
    for name, explanation in rows:
        first, *more = _wrapped(explanation, WIDTH - indent)
        lines.append(name.ljust(indent) + first)
        lines.extend(" " * indent + line for line in more)
    return "\n".join([*lines, "", FOOTNOTE, ""])


def default_text(flag: Flag) -> str:
    """The default as Go prints it, empty for a zero value."""
    if not flag.default:
        return ""
    if flag.kind == "duration":
        return format_duration(round(flag.default * SECOND))
    if flag.kind == "string":
        return f'"{flag.default}"'
    if flag.is_list:
        return f"[{','.join(str(item) for item in flag.default)}]"
    return str(flag.default).lower()


def _name(flag: Flag) -> str:
    short = f"-{flag.short}, " if flag.short else "    "
    return f"  {short}--{flag.name}" + ("" if flag.kind == "bool" else f" {flag.kind}")


def _explanation(flag: Flag) -> str:
    default = default_text(flag)
    return (OURS if flag.ours else "") + flag.help + (f" (default {default})" if default else "")


def _wrapped(text: str, width: int) -> Iterator[str]:
    line = ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield line
