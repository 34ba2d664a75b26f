"""Loading the bridge filter for our bridge switches it on for no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from kube_router.apply.kernel.bridge_filter import load
from kube_router.apply.kernel.sysctls import SysctlTarget
from kube_router.config.options import defaults
from kube_router.desired.routing.host import host
from kube_router.model.state import Change
from kube_router.model.state.links import Sysctl, SysctlKey

NAMES = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables")


def module(folder: Path, value: str) -> None:
    """What the kernel makes when the module comes: all of them on."""
    folder.mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_text(value)


def values(folder: Path) -> set[str]:
    return {(folder / name).read_text() for name in NAMES}


def test_u077_where_we_load_it_other_bridges_are_as_they_were_without_it(tmp_path):
    folder = tmp_path / "bridge"
    load(folder, lambda: module(folder, "1"))
    assert values(folder) == {"0"}


@pytest.mark.parametrize("value", ["0", "1"])
def test_u077_where_it_was_loaded_before_nothing_is_touched(tmp_path, value):
    folder = tmp_path / "bridge"
    module(folder, value)
    load(folder, lambda: pytest.fail("it is there"))
    assert values(folder) == {value}


def wish() -> tuple[SysctlKey, Sysctl]:
    ((key, value),) = (
        (k, v) for k, v in host(None, (), None, defaults()).state.items() if isinstance(k, SysctlKey) and isinstance(v, Sysctl)
    )
    return key, value


@pytest.mark.parametrize("value", ["0", "1"])
def test_u077_the_switch_for_all_bridges_is_looked_at_and_never_written(tmp_path, value):
    key, wanted = wish()
    path = tmp_path / key.path
    path.parent.mkdir(parents=True)
    path.write_text(value)
    path.chmod(0o400)
    target = SysctlTarget(tmp_path)
    assert target.observe({key: wanted}) == {key: wanted}
    assert target.apply([Change(key, None, wanted)]) == {}
    assert path.read_text() == value


def test_a_kernel_without_the_filter_is_named(tmp_path):
    key, wanted = wish()
    target = SysctlTarget(tmp_path)
    assert target.observe({key: wanted}) == {}
    assert "kernel module" in target.apply([Change(key, None, wanted)])[key]
