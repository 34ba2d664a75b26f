"""The cloud's source/destination check of this node's own instance, switched off in the background, once for each instance.

On AWS only, and told so by the Node object's providerID. Nothing waits for it: routes, sessions and pods of this node's own network do
not need it. A failure that may pass is tried again after a while that doubles; one that needs somebody's hand is told as an Event and tried
again once an hour.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from kube_router.desired import Note
from kube_router.model.objects import Node, Ref

FIRST: Final = 5.0  # seconds after the first attempt that failed
MOST: Final = 600.0
DENIED: Final = 3600.0
LOOK: Final = 3.0  # seconds between looks at our Node object
# aws:///ZONE/INSTANCE; a zone is its region and a letter, or that of a local or wavelength zone ("us-west-2-lax-1a"). Fargate names no
# instance.
_PROVIDER_ID: Final = re.compile(r"aws://[^/]*/([a-z]{2}(?:-[a-z]+)+-[0-9]+)[a-z0-9-]*/(i-[0-9a-f]+)")


class Instance(NamedTuple):
    """An EC2 instance."""

    name: str
    region: str


class Attempt(NamedTuple):
    """How an attempt ended: `fault` empty when the check is off; `denied` when only a change of rights helps."""

    fault: str = ""
    denied: bool = False


def instance_of(provider_id: str) -> Instance | None:
    """The instance that a Node runs on; None when it is none of EC2's."""
    found = _PROVIDER_ID.fullmatch(provider_id)
    return Instance(found[2], found[1]) if found else None


class SourceCheck:
    """`node` gives our Node object as it is known now; `switch_off` tries once; `tell` is told what the node's owner should know."""

    def __init__(
        self,
        *,
        node: Callable[[], Node | None],
        switch_off: Callable[[Instance], Awaitable[Attempt]],
        tell: Callable[[Note], None],
        about: Ref,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._node = node
        self._switch_off = switch_off
        self._tell = tell
        self._about = about
        self._sleep = sleep

    async def run(self) -> None:
        """For ever: a Node object may come late, and a node of the same name may be another instance one day."""
        done: Instance | None = None
        while True:
            node = self._node()
            instance = instance_of(node.provider_id) if node is not None else None
            if instance is not None and instance != done:
                await self._until_off(instance)
                done = instance
            await self._sleep(LOOK)

    async def _until_off(self, instance: Instance) -> None:
        told, wait = "", FIRST
        while True:
            attempt = await self._switch_off(instance)
            if not attempt.fault:
                message = f"source/destination check of {instance.name} is off"
                self._tell(Note(self._about, "SourceDestCheckDisabled", message, quiet=True))
                return
            if attempt.fault != told:
                told = attempt.fault
                message = f"source/destination check of {instance.name} in {instance.region} cannot be switched off: {attempt.fault}"
                self._tell(Note(self._about, "SourceDestCheckNotDisabled", message))
            await self._sleep(DENIED if attempt.denied else wait)
            wait = min(wait * 2, MOST)
