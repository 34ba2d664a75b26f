"""The text of --help is what users and scripts read."""

from __future__ import annotations

import pytest

from kube_router.config.usage import usage


def test_the_help_text_is_as_reviewed(golden) -> None:
    golden("help.txt", usage("kube-router"))


@pytest.mark.parametrize("line", usage("kube-router").splitlines())
def test_every_line_of_the_help_fits_its_width_and_ends_in_a_character(line: str) -> None:
    assert len(line) <= 130
    assert line == line.rstrip()
