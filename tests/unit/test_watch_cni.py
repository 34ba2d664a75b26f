"""What the host says about its CNI configuration: the MTU that somebody chose, and plugins that are not there."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from kube_router.codec import cni
from kube_router.model.objects import CniFile, Kind, Name
from kube_router.model.state.links import CniConfig, FileKey
from kube_router.watch.cni import CniWatch, describe, read
from kube_router.watch.events import Batch, Put, Replaced
from kube_router.watch.linktable import Disturbance


def install(folder: Path, *names: str, mode: int = 0o755) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(mode)


def seen(tmp_path: Path, *, name: str = "10-kuberouter.conflist", folders: tuple[str, ...] = ("bin",)) -> CniFile:
    path = str(tmp_path / name)
    return describe(path, read(path), folders=tuple(str(tmp_path / folder) for folder in folders))


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("10-kuberouter.conflist", ("bridge", "host-local", "loopback", "portmap")),
        ("10-kuberouter.conf", ("bridge", "host-local", "loopback")),
    ],
)
def test_u076_before_there_is_a_file_the_plugins_of_the_one_that_we_would_write_are_needed(tmp_path, name, needed):
    assert seen(tmp_path, name=name) == CniFile(Name("", str(tmp_path / name)), missing=needed)


def test_u076_plugins_that_the_file_names_are_needed_and_may_be_in_any_folder(tmp_path):
    plugins = [{"type": "bridge", "ipam": {"type": "dhcp"}}, {"type": "bandwidth"}]
    (tmp_path / "10-kuberouter.conflist").write_text(json.dumps({"name": "x", "plugins": plugins}))
    install(tmp_path / "bin", "bridge", "loopback")
    install(tmp_path / "more", "dhcp")
    assert seen(tmp_path, folders=("bin", "more")).missing == ("bandwidth",)


def test_u076_a_plugin_that_cannot_be_run_is_missing(tmp_path):
    install(tmp_path / "bin", "bridge", "host-local", "loopback")
    install(tmp_path / "bin", "portmap", mode=0o644)
    assert seen(tmp_path).missing == ("portmap",)


@pytest.mark.parametrize("text", [b"", b"# mine", b"\xff", b'{"plugins": 1}', b"[]"])
def test_a_file_that_says_nothing_counts_as_absent(tmp_path, text):
    (tmp_path / "10-kuberouter.conflist").write_bytes(text)
    assert seen(tmp_path).missing == ("bridge", "host-local", "loopback", "portmap")
    assert seen(tmp_path).mtu == 0


def test_u073_the_mtu_and_whose_it_is(tmp_path):
    path = tmp_path / "10-kuberouter.conflist"
    path.write_text('{"name": "x", "plugins": [{"type": "bridge", "mtu": 1280}]}')
    assert (seen(tmp_path).mtu, seen(tmp_path).mtu_is_ours) == (1280, False)
    path.write_text(cni.fresh(CniConfig((), 1480), as_list=True))
    assert (seen(tmp_path).mtu, seen(tmp_path).mtu_is_ours) == (1480, True)


def test_a_text_that_changed_is_told_as_a_disturbance_each_time_it_does(tmp_path):
    disturbed: list[Disturbance] = []
    path = tmp_path / "10-kuberouter.conflist"
    path.write_text("# before we came")

    async def follow() -> None:
        looks: list[Batch] = []
        watch = asyncio.create_task(CniWatch(looks.append, disturbed.append, str(path), folders=(), period=0.001).run())
        await until(lambda: looks)
        for n in range(2):
            path.write_text(f"# {n}") if n == 0 else path.unlink()
            await until(lambda n=n: len(disturbed) == n + 1)
        await asyncio.sleep(0.05)
        watch.cancel()

    asyncio.run(follow())
    assert disturbed == [Disturbance(keys=frozenset({FileKey(str(path))}))] * 2


async def until(true) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.001)


def test_the_first_look_is_a_list_and_every_change_is_told_once(tmp_path):
    told: list[Batch] = []
    path = str(tmp_path / "10-kuberouter.conflist")

    async def follow() -> None:
        watch = asyncio.create_task(CniWatch(told.append, lambda _: None, path, folders=(str(tmp_path / "bin"),), period=0.001).run())
        await until(lambda: len(told) == 1)
        install(tmp_path / "bin", "bridge", "host-local", "loopback", "portmap")
        await until(lambda: told[-1].events[0] == Put(CniFile(Name("", path))))
        count = len(told)
        await asyncio.sleep(0.05)
        assert len(told) == count
        watch.cancel()

    asyncio.run(follow())
    assert told[0].events == (Replaced(Kind.CNI_FILE, (CniFile(Name("", path), missing=("bridge", "host-local", "loopback", "portmap")),)),)
