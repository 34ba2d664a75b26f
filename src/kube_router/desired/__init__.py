"""Pure rules: from one item, the present view and the options to the state that we want for it.

No clock, randomness, logging, files or sockets. What people should hear comes back as `Note` values beside the state.
"""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from kube_router.model.objects import Ref
from kube_router.model.state import Key, Value

Item = Hashable


class Note(msgspec.Struct, frozen=True):
    """Something that its owner should know about an object: becomes an Event on it, a log line and a metric.

    `reason` is the Event's reason (CamelCase); `message` names field and value and says what would be right. A `quiet` one says how
    something was decided: nothing is wrong, and it goes to the log alone.
    """

    about: Ref
    reason: str
    message: str
    quiet: bool = False


class Desired(msgspec.Struct, frozen=True):
    """What one item comes to. Of items that want different values for one key the lowest `priority` wins."""

    state: dict[Key, Value] = {}
    notes: tuple[Note, ...] = ()
    priority: tuple[object, ...] = ()


NOTHING = Desired()
