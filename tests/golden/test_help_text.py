"""The text of --help is what users and scripts read."""

from __future__ import annotations

from kube_router.config.usage import usage


def test_the_help_text_is_as_reviewed(golden) -> None:
    golden("help.txt", usage("kube-router"))


def test_every_line_of_the_help_fits_its_width_and_ends_in_a_character() -> None:
    lines = usage("kube-router").splitlines()
    assert [line for line in lines if len(line) > 130 or line != line.rstrip()] == []
