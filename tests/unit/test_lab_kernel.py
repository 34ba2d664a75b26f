"""Where things run and what is needed for it: the script for the lab kernel, features by name, packages, sizes of modules."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from lab import kernel, kernel_features, setup
from lab.checks import module_size
from tests.verdict import Verdict


def script(tmp_path: Path, command: list[str], **boot: object) -> str:
    return kernel.guest_script(command, kernel.Boot(work=tmp_path, **boot), "6.1.0-1-amd64")  # type: ignore[arg-type]


def test_the_script_is_one_that_a_shell_understands(tmp_path: Path) -> None:
    text = script(tmp_path, ["echo", "it's", "a $HOME; thing"], environment={"WORD": "two words"})
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    assert "echo 'it'\"'\"'s' 'a $HOME; thing'" in text
    assert "export WORD='two words'" in text


def test_the_status_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    assert re.search(r">(\S+/status)\.new && mv \1\.new \1 && sync", script(tmp_path, ["true"]))


def test_what_runs_inside_can_tell_that_it_does(tmp_path: Path) -> None:
    assert "export LAB_KERNEL=6.1.0-1-amd64" in script(tmp_path, ["true"])


@pytest.mark.parametrize(("network", "loaded"), [(True, True), (False, False)])
def test_the_driver_of_a_network_is_loaded_only_when_there_is_one(tmp_path: Path, network: bool, loaded: bool) -> None:
    assert ("virtio_net" in script(tmp_path, ["true"], network=network)) is loaded


def test_a_shell_for_people_gets_a_terminal(tmp_path: Path) -> None:
    assert "script --quiet --return --command 'sh -i' /dev/null" in script(tmp_path, ["sh", "-i"], interactive=True)


@pytest.mark.parametrize(
    ("releases", "newest"),
    [
        (["6.1.0-9-amd64", "6.1.0-56-amd64"], "6.1.0-56-amd64"),
        (["6.12.3-amd64", "6.2.40-amd64"], "6.12.3-amd64"),
        (["5.10.0-40-amd64", "6.1.0-1-amd64"], "6.1.0-1-amd64"),
    ],
)
def test_the_newest_of_several_kernels_is_taken_by_number_not_by_letter(releases: list[str], newest: str) -> None:
    assert max(releases, key=kernel.version_key) == newest


def test_a_misspelt_feature_is_an_error_and_not_for_ever_missing() -> None:
    with pytest.raises(ValueError, match="ip_vss"):
        kernel_features.missing(frozenset({"ip_vss"}))


def test_every_name_that_tests_and_benches_use_is_known() -> None:
    used = set()
    for file in (*kernel.REPOSITORY.glob("tests/**/*.py"), *kernel.REPOSITORY.glob("bench/*.py")):
        for names in re.findall(r"(?:mark\.needs\(|NEEDS = frozenset\(\{)([^)}]*)", file.read_text()):
            used.update(re.findall(r'"(\w+)"', names))
    assert {"root", "ip_vs"} <= used
    assert used - {"ip_vss"} <= kernel_features.known()


def test_the_demo_needs_what_its_acceptance_test_needs() -> None:
    text = (kernel.REPOSITORY / "Makefile").read_text()
    needs = re.search(r"^DEMO_NEEDS := (\S+)$", text, re.MULTILINE)
    from tests.lab import test_walkthrough

    assert needs is not None
    assert set(needs[1].split(",")) == set(test_walkthrough.pytestmark.args)


# -- packages ----------------------------------------------------------------------------------------------------------


def test_the_list_of_packages_knows_its_sections_and_drops_remarks() -> None:
    runtime = setup.packages("runtime")
    assert {"ipset", "iptables", "gobgpd"} <= set(runtime)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in setup.packages("runtime", "image", "build", "lab"))
    assert "linux-image-amd64" not in runtime
    assert setup.packages("no such section") == []


# -- sizes -------------------------------------------------------------------------------------------------------------


def function(lines: int, docstring: int = 0) -> str:
    head = ["def f():", *(['    """', *["    words"] * (docstring - 2), '    """'] if docstring else [])]
    return "\n".join([*head, *["    x = 1"] * (lines - 1)]) + "\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (function(module_size.FUNCTION_LINES), []),
        (function(module_size.FUNCTION_LINES, docstring=9), []),
        (function(module_size.FUNCTION_LINES + 1), ["m.py:1: f has 56 lines, more than 55"]),
        ("\n" * 100, []),
        ("\n" * 101, ["m.py:1: 101 lines, more than 100: find the second idea, name it and move it"]),
    ],
)
def test_what_is_too_long_is_named_and_a_docstring_does_not_count(text: str, said: list[str]) -> None:
    assert list(module_size.faults(text, "m.py", module_lines=100)) == said


# -- the verdict -------------------------------------------------------------------------------------------------------


def report(nodeid: str, when: str, outcome: str, where: str | None = None) -> pytest.TestReport:
    made = pytest.TestReport(
        nodeid=nodeid,
        location=(nodeid.split("::")[0], 1, "test"),
        keywords={},
        outcome=outcome,  # type: ignore[arg-type]
        longrepr=("file", 1, "Skipped: no reason") if outcome == "skipped" else None,
        when=when,  # type: ignore[arg-type]
    )
    if where:
        made.where = where  # type: ignore[attr-defined]
    return made


def test_a_test_counts_once_by_its_worst_phase_where_it_ran() -> None:
    verdict = Verdict(None)
    for each in (
        report("tests/unit/test_a.py::one", "setup", "passed"),
        report("tests/unit/test_a.py::one", "call", "passed"),
        report("tests/unit/test_a.py::one", "teardown", "passed"),
        report("tests/unit/test_a.py::two", "call", "passed"),
        report("tests/unit/test_a.py::two", "teardown", "failed"),
        report("tests/kernel/test_b.py::three", "call", "passed", "lab kernel 6.1"),
        report("tests/kernel/test_b.py::four", "setup", "skipped", "lab kernel 6.1"),
    ):
        verdict.pytest_runtest_logreport(each)
    assert verdict.table() == {
        ("kernel", "lab kernel 6.1"): {"passed": 1, "skipped": 1},
        ("unit", "in place"): {"passed": 1, "failed": 1},
    }
