"""What is not there yet is refused when asked for, and only then."""

from __future__ import annotations

from typing import Any

import pytest

from kube_router.config.flag_table import BY_NAME
from kube_router.config.not_yet import NOT_YET, not_yet_faults
from kube_router.config.options import defaults
from kube_router.config.validate import parse

ASKING: dict[str, dict[str, Any]] = {}
NOBODY = {"run_router": False, "run_service_proxy": False, "run_firewall": False}


def asking(flag: str) -> dict[str, Any]:
    row = BY_NAME[flag]
    return ASKING.get(flag) or {row.attribute: not row.default}


@pytest.mark.parametrize("row", NOT_YET, ids=lambda row: row.flag)
def test_a_value_that_asks_for_a_missing_part_is_refused_in_one_line(row: Any) -> None:
    (fault,) = not_yet_faults(defaults(**asking(row.flag)))
    assert str(fault) == f"--{row.flag}: asks for {row.part}, which this version does not do yet; leave it out"


@pytest.mark.parametrize("row", NOT_YET, ids=lambda row: row.flag)
def test_nothing_is_refused_of_a_controller_that_is_off(row: Any) -> None:
    switched_off = not_yet_faults(defaults(**(NOBODY | asking(row.flag))))
    owners = set(BY_NAME[row.flag].owners)
    assert bool(list(switched_off)) is ("core" in owners)


def test_defaults_ask_for_nothing_that_is_missing() -> None:
    assert list(not_yet_faults(defaults())) == []


def test_cleaning_up_is_never_refused_for_a_missing_part() -> None:
    assert isinstance(parse(["--run-loadbalancer"], {}, open), tuple)
    assert not isinstance(parse(["--run-loadbalancer", "--cleanup-config"], {}, open), tuple)


def test_every_row_is_of_a_flag_and_there_is_one_row_a_flag() -> None:
    flags = [row.flag for row in NOT_YET]
    assert set(flags) <= BY_NAME.keys()
    assert len(set(flags)) == len(flags)
