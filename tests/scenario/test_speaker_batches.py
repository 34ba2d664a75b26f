"""An event of the speaker holds many paths: each counts by itself, whatever stands before it."""

from __future__ import annotations

from itertools import permutations

import pytest

from kube_router.cache.cache import Cache
from kube_router.codec.gobgp.generation import Message, load
from kube_router.codec.gobgp.paths import Paths, event_of, path
from kube_router.model.state.bgp import Path, PathKey
from kube_router.watch.events import write
from kube_router.watch.speaker_paths import LearnedPaths


def told(api: object, prefix: str, hop: str, neighbor: str, *, withdrawn: bool = False) -> Message:
    message = path(api, PathKey(prefix), Path(hop))  # type: ignore[arg-type]
    message.neighbor_ip, message.is_withdraw, message.best = neighbor, withdrawn, True
    return message


@pytest.mark.parametrize("generation", ["v3", "v4"])
def test_r17_a_path_of_our_own_or_one_that_cannot_be_read_ends_no_batch(generation: str) -> None:
    api = load(generation)
    ours = "<nil>" if generation == "v3" else ""
    nonsense = told(api, "10.9.0.0/24", "192.168.50.51", "192.168.50.51")
    nonsense.family.safi = 128
    batch = [
        told(api, "10.244.0.0/24", "192.168.50.50", ours),
        nonsense,
        told(api, "10.244.1.0/24", "192.168.50.51", "192.168.50.51"),
        told(api, "fd00:65::/64", "fd00:50::51", "192.168.50.51"),
    ]
    for order in permutations(batch):
        event = event_of(api, api.pb.WatchEventResponse(table=api.pb.WatchEventResponse.TableEvent(paths=order)))
        assert isinstance(event, Paths)
        cache, learned = Cache(), LearnedPaths(settle=6.0)
        learned.opened(1000.0)
        write(learned.list(), cache)
        write(learned.learn([event]), cache)
        found = {name.name: entry.next_hops for name, entry in cache.view.paths.items()}
        assert found == {"10.244.1.0/24": ("192.168.50.51",), "fd00:65::/64": ("fd00:50::51",)}
