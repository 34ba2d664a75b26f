"""The connection to gobgpd, without a gobgpd: something that listens and never answers, as one that hangs does."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

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
