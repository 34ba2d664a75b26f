"""The connection to gobgpd, without a gobgpd: something that listens and never answers, as one that hangs does."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kube_router.apply.gobgp.client import Client
from kube_router.kit.errors import Busy


def test_closing_the_connection_ends_a_call_that_waits_for_a_speaker_which_hangs(tmp_path: Path) -> None:
    ended: list[Exception] = []
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "gobgp.sock"))
        silent.listen()
        client = Client(f"unix://{tmp_path}/gobgp.sock", timeout=60)

        def ask() -> None:
            try:
                client.send("GetBgp")
            except Busy as error:
                ended.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        accepted, _ = silent.accept()
        time.sleep(0.2)
        assert asking.is_alive()
        client.close()
        asking.join(timeout=5)
        accepted.close()
    assert [str(error).startswith("no gobgpd answers at unix://") for error in ended] == [True]


def test_a_connection_that_another_thread_gave_up_is_no_answer_and_no_crash(tmp_path: Path) -> None:
    """Between taking the connection and calling on it, a call of another thread may find nobody there and close it."""

    class Overtaken(Client):
        def _connection(self) -> tuple[Any, Any]:
            grpc, channel = super()._connection()
            self.close()
            return grpc, channel

    client = Overtaken(f"unix://{tmp_path}/nobody.sock", timeout=1.0)
    with pytest.raises(Busy, match="given up"):
        client.generation()
