"""Accepted annotations on disk: for root alone, whole or not at all, and never in the way."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest

from kube_router.app import acceptance
from kube_router.app.acceptance import FILE, Acceptance, can_listen
from kube_router.apply.files import kept
from kube_router.config.options import defaults
from kube_router.model.objects import Name, Node
from kube_router.telemetry import logging

GOOD = Node(Name("", "node1"), annotations={"kube-router.io/node.asn": "64512"})
WRONG = Node(Name("", "node1"), annotations={"kube-router.io/node.asn": "many"})


@pytest.fixture
def log():
    stream = io.StringIO()
    logging.configure(verbosity=0, form="text", stream=stream)
    yield stream
    logging.configure(verbosity=0, form="text")


def started(folder: Path) -> Acceptance:
    new = Acceptance(defaults(node_name="node1", state_dir=str(folder)))
    new.load()
    return new


def test_what_was_accepted_counts_after_a_restart(tmp_path: Path, log: io.StringIO) -> None:
    folder = tmp_path / "not" / "there"
    first = started(folder)
    first.gate.admit(GOOD)
    first.finish()
    assert (folder / FILE).stat().st_mode & 0o777 == 0o600
    assert started(folder).gate.admit(WRONG) == first.gate.admit(WRONG)
    assert log.getvalue() == ""


def test_it_is_written_down_soon_after_it_changes_and_then_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "_PAUSE", 0.001)
    new = started(tmp_path)
    writes = []

    async def write(function, path, data) -> None:
        writes.append(data)

    async def scenario() -> None:
        keeping = asyncio.create_task(new.keep(write))
        new.gate.admit(GOOD)
        while not writes:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        keeping.cancel()

    asyncio.run(scenario())
    assert len(writes) == 1
    assert b"64512" in writes[0]


@pytest.mark.parametrize("data", [b"", b"{", b"\x00" * 100])
def test_a_garbled_file_counts_as_none_with_one_line(tmp_path: Path, log: io.StringIO, data: bytes) -> None:
    (tmp_path / FILE).write_bytes(data)
    assert started(tmp_path).gate.dump() == started(tmp_path / "none").gate.dump()
    assert len(log.getvalue().splitlines()) == (1 if data else 0)


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path, log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "_PAUSE", 0.001)
    monkeypatch.setattr(acceptance, "_RETRY", 0.001)
    (tmp_path / "file").write_text("in the way")
    new = started(tmp_path)
    new = Acceptance(defaults(node_name="node1", state_dir=str(tmp_path / "file")))
    new.gate.admit(GOOD)
    tries = []

    async def call(function, *args) -> object:
        tries.append(1)
        return function(*args)

    async def scenario() -> None:
        keeping = asyncio.create_task(new.keep(call))
        while len(tries) < 3:
            await asyncio.sleep(0.001)
        keeping.cancel()

    asyncio.run(scenario())
    assert new.gate.changed
    assert log.getvalue().count("not kept over a restart") == 1


def test_a_file_is_replaced_whole_and_a_left_over_half_is_no_trap(tmp_path: Path) -> None:
    path = tmp_path / "f"
    kept.write(path, b"one")
    half = tmp_path / ".f.new"
    half.write_bytes(b"half")
    half.chmod(0o666)
    kept.write(path, b"two")
    assert kept.read(path) == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f"]
    assert kept.read(tmp_path / "absent") == b""


@pytest.mark.parametrize(("address", "there"), [("127.0.0.1", True), ("::1", True), ("192.0.2.77", False), ("2001:db8::77", False)])
def test_an_address_is_tried_in_both_families(address: str, there: bool) -> None:
    assert can_listen(address) is there
