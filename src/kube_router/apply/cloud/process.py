"""Runs the program that talks to the cloud (aws.py), and understands what it says."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Final

from kube_router.apply.cloud.aws import Failed

TIMEOUT: Final = 90.0  # seconds; above what the SDK's own attempts take
PROGRAM: Final = (sys.executable, "-m", "kube_router.apply.cloud.aws")
_LONGEST: Final = 500  # characters of what a broken program says


async def switch_off(instance: str, region: str, *, program: Sequence[str] = PROGRAM, timeout: float = TIMEOUT) -> None:
    """Switch the source/destination check of an instance off. Raises Failed; a program that hangs or is not waited for is killed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *program, instance, region, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as fault:
        raise Failed(f"{program[0]} cannot be run: {fault}") from fault
    try:
        said, complained = await asyncio.wait_for(process.communicate(), timeout)
    except TimeoutError as fault:
        raise Failed(f"no answer in {timeout:g} s") from fault
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise _failure(said, complained, process.returncode or 0)


def _failure(said: bytes, complained: bytes, status: int) -> Failed:
    try:
        reply = json.loads(said)
        return Failed(str(reply["message"]), denied=bool(reply["denied"]))
    except (ValueError, KeyError, TypeError):
        last = " ".join(complained.decode(errors="replace").split())[-_LONGEST:]
        return Failed(f"ended with status {status}: {last or 'without a word'}")
