"""What a thread hands to the event loop arrives whole and in order, and a thread far ahead waits."""

from __future__ import annotations

import asyncio
import threading
import time

from kube_router.watch.mailbox import Mailbox


def test_everything_arrives_in_order_however_slow_the_taker() -> None:
    async def work() -> list[int]:
        mail: Mailbox[int] = Mailbox(most=7)
        writer = threading.Thread(target=lambda: [mail.put(number) for number in range(500)])
        writer.start()
        found: list[int] = []
        while len(found) < 500:
            batch = await mail.take(5)
            assert 0 < len(batch) <= 7
            found.extend(batch)
        await asyncio.to_thread(writer.join)
        return found

    assert asyncio.run(work()) == list(range(500))


def test_weight_holds_the_writer_until_it_is_taken() -> None:
    async def work() -> tuple[list[str], list[str]]:
        mail: Mailbox[str] = Mailbox(weight=len, most=3)
        writer = threading.Thread(target=lambda: [mail.put(item) for item in ("aaaa", "b")])
        writer.start()
        first = await mail.take(5)
        second = await mail.take(5)
        await asyncio.to_thread(writer.join)
        return first, second

    assert asyncio.run(work()) == (["aaaa"], ["b"])


def test_nothing_in_time_is_an_empty_batch() -> None:
    async def work() -> list[int]:
        return await Mailbox[int]().take(0.01)

    assert asyncio.run(work()) == []


def test_a_writer_that_waits_is_let_go_when_nobody_takes_any_more() -> None:
    async def work() -> bool:
        mail: Mailbox[int] = Mailbox(most=1)
        writer = threading.Thread(target=lambda: [mail.put(number) for number in range(3)])
        writer.start()
        deadline = time.monotonic() + 5
        while not mail.take_now() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        mail.close()
        await asyncio.to_thread(writer.join, 5)
        return writer.is_alive()

    assert asyncio.run(work()) is False
