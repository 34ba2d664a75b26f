"""Label and field selectors in the API's text form, parsed once into a predicate."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lab.api.problem import Problem

Match = Callable[[Mapping[str, str]], bool]

_SET = re.compile(r"^(?P<key>\S+)\s+(?P<word>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUALITY = re.compile(r"^(?P<key>[^!=\s]+)\s*(?P<operator>==|=|!=)\s*(?P<value>[^!=\s]*)$")
_KEY = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term. ``values`` empty with ``negative`` False means "the key exists", with True "the key is absent"."""

    key: str
    negative: bool
    values: frozenset[str] | None = None

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        if self.values is None:
            return (value is None) == self.negative
        # "!=" and "notin" hold for an absent key, as the API says
        return (value is not None and value in self.values) != self.negative


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; none of them holds for everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __bool__(self) -> bool:
        return bool(self.requirements)


EVERYTHING = Selector()


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside of parentheses."""
    return [term.strip() for term in re.split(r",(?![^(]*\))", text) if term.strip()]


def _label_requirement(term: str) -> Requirement:
    if found := _SET.match(term):
        values = frozenset(value.strip() for value in found["values"].split(","))
        requirement = Requirement(found["key"], found["word"] == "notin", values)
    elif found := _EQUALITY.match(term):
        requirement = Requirement(found["key"], found["operator"] == "!=", frozenset({found["value"]}))
    else:
        key = term.removeprefix("!").strip()
        requirement = Requirement(key, term.startswith("!"))
    if not _KEY.match(requirement.key):
        raise Problem(400, f"unable to parse requirement: {term!r}")
    return requirement


def label_selector(text: str) -> Selector:
    """Parse ``a=b,c!=d,e,!f,g in (x,y),h notin (z)``; Problem 400 when it is not one."""
    return Selector(tuple(_label_requirement(term) for term in _split(text))) if text else EVERYTHING


def field_selector(text: str, *, known: frozenset[str]) -> Selector:
    """Parse ``a=b,c!=d`` over the fields in ``known``; Problem 400 for any other field or form."""
    requirements = []
    for term in _split(text):
        found = _EQUALITY.match(term)
        if found is None:
            raise Problem(400, f"invalid selector: {term!r}")
        if found["key"] not in known:
            raise Problem(400, f"field label not supported: {found['key']}")
        requirements.append(Requirement(found["key"], found["operator"] == "!=", frozenset({found["value"]})))
    return Selector(tuple(requirements))


def simple_selector(match_labels: Mapping[str, str]) -> Selector:
    """The selector of a Service: every label with its value."""
    return Selector(tuple(Requirement(key, False, frozenset({value})) for key, value in sorted(match_labels.items())))
