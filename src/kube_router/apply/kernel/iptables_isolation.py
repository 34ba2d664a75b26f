"""What to do when `iptables-restore` refuses a section: find what it refuses, leave that out, commit the rest.

Both tools name the line when they themselves cannot make sense of it, and the nft tools name each rule that the kernel
refuses. The legacy tools name the COMMIT then, whatever it was: the changes are halved until single keys remain, and rules of
a refused chain are tried in a scratch chain that nothing leads to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from kube_router.apply.kernel.commands import Ran
from kube_router.apply.kernel.iptables_section import Section, is_hopeless, locate, reason_in, remainder
from kube_router.codec import tables
from kube_router.codec.tables import Line
from kube_router.model.names import TRIAL_CHAIN
from kube_router.model.state import Key
from kube_router.model.state.netfilter import ChainKey, JumpKey, LeftoverKey

_ROUNDS: Final = 50  # errors that we follow one by one in a section; a section with more is halved
_TRIALS: Final = 200  # processes spent on finding refused rules in one chain; what is not cleared by then counts as refused
_FEEDS: Final = 500  # processes spent on halving a section; what is not written by then is refused
_SHOWN: Final = 400  # characters of a refused chain in a message


class Access(NamedTuple):
    """How the section's table is reached."""

    render: Callable[[Section], list[Line]]  # the section as it must be written now
    feed: Callable[[Sequence[Line]], Ran]
    present: Callable[[Section], frozenset[str]]  # names of the chains of ours that exist


def isolate(part: Section, access: Access, failed: Ran | None) -> None:
    """Write as much of a section as the kernel takes; reasons for the rest are in `part.refused`.

    `failed` is how the section as a whole failed, when it has been tried. Raises what the access raises.
    """
    strikes: Counter[Key] = Counter()
    for _ in range(_ROUNDS):
        lines = access.render(part)
        if not lines:
            return
        ran, failed = failed or access.feed(lines), None
        if ran.well:
            return
        if is_hopeless(ran.errors):
            part.refuse_all(reason_in(ran.errors))
            return
        faults = locate(ran.errors, lines)
        if not faults:
            break
        # A rule that could not be deleted was moved or removed by somebody since it was read: it gets a second try.
        moved = {line.key for line in faults if isinstance(line.key, JumpKey | LeftoverKey) and not strikes[line.key]}
        strikes.update(line.key for line in faults if line.key is not None)
        part.refuse([line for line in faults if line.key not in moved], reason_in(ran.errors))
    _halve(part, access)


def _halve(part: Section, access: Access) -> None:
    """Write a section in halves, as long as they go through, down to single keys."""
    # Chains must exist before others lead to them, and be empty before those that they lead to can go.
    present = access.present(part)
    bare = [key.name for key in part.puts if key.name not in present] + [key.name for key in part.gone]
    access.feed(tables.section(part.table, [Line(tables.declare(name)) for name in bare]))
    pending: list[list[Key]] = [part.left()]
    feeds = 0
    while pending:
        keys = pending.pop()
        lines = access.render(part.only(keys))
        if not lines:
            continue
        if feeds >= _FEEDS:
            part.only(keys).refuse_all("too many others were refused before it")
            continue
        ran = access.feed(lines)
        feeds += 1
        if ran.well:
            continue
        if len(keys) > 1:
            middle = len(keys) // 2
            pending += [keys[middle:], keys[:middle]]
        else:
            feeds += _single(part, keys[0], access, reason_in(ran.errors))


def _single(part: Section, key: Key, access: Access, reason: str) -> int:
    """Write what may be kept of one refused chain; returns the processes that it took."""
    if not isinstance(key, ChainKey) or key not in part.puts:
        part.refused.setdefault(key, reason)
        return 0
    rules = part.puts[key]
    bad, trials = _bad_rules(part.table, rules, access)
    blamed = [rules[number] for number in bad] or list(rules)
    part.refused.setdefault(key, f"{reason}: {'; '.join(blamed)}"[:_SHOWN])
    kept = remainder(rules, bad or range(len(rules)))
    for content in (kept, ()):
        lines = [Line(tables.declare(key.name)), *(Line(tables.append(key.name, rule)) for rule in content)]
        if access.feed(tables.section(part.table, lines)).well:
            break
    return trials


def _bad_rules(table: str, rules: Sequence[str], access: Access) -> tuple[list[int], int]:
    """Numbers of the rules that the kernel refuses wherever they stand (none when it is their place that it refuses), and how
    many trials that took."""
    bad: list[int] = []
    pending = [list(range(len(rules)))]
    trials = 0
    while pending:
        numbers = pending.pop()
        trials += 1
        lines = [Line(tables.declare(TRIAL_CHAIN)), *(Line(tables.append(TRIAL_CHAIN, rules[number])) for number in numbers)]
        if trials <= _TRIALS and access.feed(tables.section(table, lines)).well:
            continue
        if len(numbers) == 1 or trials > _TRIALS:
            bad += numbers
        else:
            middle = len(numbers) // 2
            pending += [numbers[middle:], numbers[:middle]]
    access.feed(tables.section(table, [Line(tables.declare(TRIAL_CHAIN)), Line(tables.remove(TRIAL_CHAIN))]))
    return sorted(bad), trials
