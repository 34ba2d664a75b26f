"""The sets of the kernel: SetKey and SetMember.

Observing asks for the names first and then for the content of ours alone, so a foreign set is never read, and its size
costs nothing. Writing is one `ipset restore` for a whole run of changes; what happens when the kernel refuses a line of it
is ipset_run.py.

A set's size (`maxelem`) is a minimum: a set that holds more than was asked for is as wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock

from kube_router.apply.kernel.commands import Commands
from kube_router.apply.kernel.ipset_run import SCRATCH, IpsetTool, Run, suffices
from kube_router.codec import sets
from kube_router.model.state import Change, Key, Value
from kube_router.model.state.netfilter import SetKey, SetMember, SetSpec
from kube_router.plan.ownership import set_owner


class SetTarget:
    """All sets of ours. `restores` counts `ipset restore` runs that write, `lines` what they were fed, `forks` all processes."""

    kinds: tuple[type[Key], ...] = (SetKey, SetMember)

    def __init__(self, commands: Commands | None = None) -> None:
        self._tool = IpsetTool(commands or Commands())
        self._lock = Lock()

    @property
    def forks(self) -> int:
        """Processes started so far, for reading and for writing."""
        return self._tool.commands.forks

    @property
    def restores(self) -> int:
        """`ipset restore` runs that wrote."""
        return self._tool.restores

    @property
    def lines(self) -> int:
        """Lines that those runs were fed."""
        return self._tool.lines

    def observe(self, wanted: Mapping[Key, Value]) -> Mapping[Key, Value]:
        """Sets of ours with their members; a set that is at least as large as wanted is returned as wanted."""
        with self._lock:
            present = self._tool.names()
            if SCRATCH in present:
                self._tool.drop_scratch()  # a process of ours was killed between swap and destroy
            state = self._tool.save([name for name in present if set_owner(name)])
        for key, value in wanted.items():
            held = state.get(key)
            if isinstance(held, SetSpec) and isinstance(value, SetSpec) and suffices(held, value):
                state[key] = value
        return state

    def apply(self, changes: Sequence[Change]) -> Mapping[Key, str]:
        """All changes through one `ipset restore`, as long as no line is refused; returns refusals by key.

        Raises Busy when the kernel is short of something for the moment, Stale when a set had to be made anew and what it was
        known to hold is gone, Rejected when there is no ipset at all.
        """
        script = sets.script(changes)
        if not script.lines:
            return {}
        with self._lock:
            run = Run(self._tool, script, changes)
            return run.finish()
