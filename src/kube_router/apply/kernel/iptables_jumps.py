"""Where our jumps stand in a built-in chain that we share with others. Pure: lists of rules in, lines out.

    INPUT:  [jump of ours, rank 10] [jump of ours, rank 20] [foreign] [foreign] [jump of ours that need not be first]

A jump that must be first precedes every rule that is not ours; among ours, ranks decide. Foreign rules are never moved. A
jump in the wrong place is deleted and inserted in one transaction, so that there is no moment without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from kube_router.codec import tables
from kube_router.model.state.netfilter import Jump, JumpKey

UNPLACED: Final = -1  # rank of an observed jump whose place is not the wanted one: equal to no jump that is wanted

Ours = Callable[[str], bool]


def observed(key: JumpKey, rules: Sequence[str], known: Mapping[JumpKey, Jump], ours: Ours) -> Jump | None:
    """The jump as it stands: as it is known, when it is there once and in its place."""
    places = _places(rules, key.chain)
    if not places:
        return None
    wanted = known.get(key)
    at = places[0]
    if wanted is not None and len(places) == 1 and rules[at] == text_of(key, wanted) and _well_placed(key, rules, at, known, ours):
        return wanted
    match = rules[at][: -len(f"-j {key.chain}")].rstrip()
    return Jump(match=match, first=_leads(rules, at, ours), rank=UNPLACED)


def settle(wanted: Mapping[JumpKey, Jump | None], rules: Sequence[str], known: Mapping[JumpKey, Jump], ours: Ours) -> list[tables.Line]:
    """Lines that make these jumps of one built-in chain as wanted (None: gone); none for those that are."""
    now = list(rules)
    lines: list[tables.Line] = []
    for key in sorted(wanted, key=lambda key: _order(key, wanted[key])):
        jump = wanted[key]
        places = _places(now, key.chain)
        if jump is not None and observed(key, now, known, ours) == jump:
            continue
        lines += [tables.Line(tables.delete(key.builtin, now[at]), key) for at in places]
        now = [rule for at, rule in enumerate(now) if at not in places]
        if jump is None:
            continue
        rule, at = text_of(key, jump), _place_for(key, jump, now, known, ours)
        append = at == len(now)
        lines.append(tables.Line(tables.append(key.builtin, rule) if append else tables.insert(key.builtin, at + 1, rule), key))
        now.insert(at, rule)
    return lines


def text_of(key: JumpKey, jump: Jump) -> str:
    """The whole rule."""
    return f"{jump.match} -j {key.chain}".lstrip()


def _places(rules: Sequence[str], chain: str) -> list[int]:
    return [at for at, rule in enumerate(rules) if tables.rule_target(rule) == chain]


def _leads(rules: Sequence[str], at: int, ours: Ours) -> bool:
    return all(ours(tables.rule_target(rule)) for rule in rules[:at])


def _well_placed(key: JumpKey, rules: Sequence[str], at: int, known: Mapping[JumpKey, Jump], ours: Ours) -> bool:
    jump = known[key]
    if jump.first and not _leads(rules, at, ours):
        return False
    return not any(_comes_after(key, jump, rule, known) for rule in rules[:at])


def _comes_after(key: JumpKey, jump: Jump, rule: str, known: Mapping[JumpKey, Jump]) -> bool:
    other = JumpKey(key.family, key.table, key.builtin, tables.rule_target(rule))
    theirs = known.get(other)
    return theirs is not None and theirs.first == jump.first and _order(other, theirs) > _order(key, jump)


def _place_for(key: JumpKey, jump: Jump, rules: Sequence[str], known: Mapping[JumpKey, Jump], ours: Ours) -> int:
    if not jump.first:
        return next((at for at, rule in enumerate(rules) if _comes_after(key, jump, rule, known)), len(rules))
    place = 0
    for at, rule in enumerate(rules):
        other = JumpKey(key.family, key.table, key.builtin, tables.rule_target(rule))
        if not ours(other.chain):
            break
        theirs = known.get(other)
        if theirs is not None and theirs.first and _order(other, theirs) < _order(key, jump):
            place = at + 1
    return place


def _order(key: JumpKey, jump: Jump | None) -> tuple[int, str]:
    return (UNPLACED if jump is None else jump.rank, key.chain)
