"""Setting up a machine starts nothing on it."""

from __future__ import annotations

from pathlib import Path

from lab import setup


def test_services_of_installed_packages_never_start_and_those_that_were_there_stay(tmp_path: Path) -> None:
    (tmp_path / "frr.service").write_text("somebody's own")
    setup._mask(["frr.service", "bird.service"], folder=tmp_path)
    setup._mask(["bird.service"], folder=tmp_path)
    assert (tmp_path / "bird.service").readlink() == Path("/dev/null")
    assert (tmp_path / "frr.service").read_text() == "somebody's own"


def test_every_package_with_a_service_is_known() -> None:
    assert set(setup.SERVICES) <= set(setup.packages("runtime", "build", "lab"))


def test_a_machine_without_systemd_is_left_alone(tmp_path: Path) -> None:
    setup._mask(["bird.service"], folder=tmp_path / "none")
    assert not (tmp_path / "none").exists()
