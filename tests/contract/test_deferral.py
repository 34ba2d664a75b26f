"""A test that was sent to the lab kernel and of which nothing is heard again has failed, in words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.kernel import REPOSITORY, inside

pytestmark = pytest.mark.needs("root")

PROMISE = "tests/kernel/test_plumbing.py::test_a_failing_command_tells_what_it_said"


def test_a_lab_kernel_that_breaks_off_fails_its_tests_and_says_why(tmp_path: Path) -> None:
    assert not inside()
    # Beside the one of this very session, which holds the usual lock.
    quick = {"LAB_KERNEL_ALWAYS": "1", "LAB_KERNEL_TIMEOUT": "0.5", "LAB_KERNEL_LOCK": str(tmp_path / "lock")}
    arguments = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", PROMISE]
    done = subprocess.run(arguments, cwd=REPOSITORY, env={**os.environ, **quick}, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "the lab kernel gave no result for this test" in done.stdout
    assert "0 passed, 1 failed" in done.stdout.splitlines()
