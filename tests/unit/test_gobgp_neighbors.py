"""Neighbours of a gobgpd in memory: what changes in place, what begins anew, and what is said before."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from kube_router.apply.gobgp.client import Client
from kube_router.apply.gobgp.target import GobgpTarget
from kube_router.codec.gobgp import speaker as codec
from kube_router.codec.gobgp.generation import load
from kube_router.kit.errors import Stale
from kube_router.model.secret import Secret
from kube_router.model.state import Change
from kube_router.model.state.bgp import Bfd, Neighbor, NeighborKey, Speaker, SpeakerKey
from tests.gobgpd import FakeGobgpd

generations = pytest.mark.parametrize("generation", ["v3", "v4"])
SPEAKER = Speaker(64512, "10.0.0.1", 179, ("10.0.0.1", "10.0.0.9"))
KEY = NeighborKey("10.0.0.2")
PLAIN = Neighbor(65001, "10.0.0.1", families=(4, 6))
RICH = Neighbor(
    65001,
    "10.0.0.1",
    1790,
    (4, 6),
    30,
    90,
    5,
    password=Secret("hunter2"),
    multihop_ttl=4,
    cluster_id="0.0.0.42",
    bfd=Bfd(3785, 5, 300, 400),
)


def replaced(neighbor: Neighbor, **fields: Any) -> Neighbor:
    return msgspec.structs.replace(neighbor, **fields)


class Home:
    """A speaker with one neighbour whose session is up, or not."""

    def __init__(self, generation: str, held: Neighbor | None = PLAIN, *, established: bool = True) -> None:
        self.gobgpd = FakeGobgpd(generation)
        self.told: list[tuple[str, str, int]] = []
        self.target = GobgpTarget(
            cast(Client, self.gobgpd), tell=lambda reason, message: self.told.append((reason, message, len(self.gobgpd.calls)))
        )
        self.target.apply([Change(SpeakerKey(), None, SPEAKER)])
        if held is not None:
            self.target.apply([Change(KEY, None, held)])
            self.gobgpd.peers[KEY.address].state.session_state = 6 if established else 3
        self.told.clear()
        self.gobgpd.calls.clear()

    def change(self, before: Neighbor | None, after: Neighbor | None) -> list[str]:
        """Names of the calls that it costs."""
        self.target.apply([Change(KEY, before, after)])
        return [call.split(" ")[0] for call in self.gobgpd.calls]

    def observed(self, wanted: Neighbor) -> object:
        return self.target.observe({KEY: wanted})[KEY]


@generations
@pytest.mark.parametrize("neighbor", [PLAIN, RICH], ids=["plain", "rich"])
def test_what_is_told_is_what_is_read_back(generation: str, neighbor: Neighbor) -> None:
    """BFD where the generation has it; where not, nobody takes its absence for drift."""
    assert Home(generation, neighbor).observed(neighbor) == neighbor


@generations
@pytest.mark.parametrize(
    "fields",
    [
        {"multihop_ttl": 256},
        {"cluster_id": "42"},
        {"bfd": Bfd(port=0)},
        {"bfd": Bfd(multiplier=256)},
        {"bfd": Bfd(transmit=4294968)},
        {"hold_time": 2},
        {"local_address": "fd00::1"},
    ],
)
def test_a_neighbour_that_gobgpd_would_take_wrongly_is_refused_here(generation: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        codec.peer(load(generation), KEY, replaced(PLAIN, **fields))


@generations
def test_bfd_changes_in_place_where_it_exists(generation: str) -> None:
    watched = replaced(PLAIN, bfd=Bfd())
    home = Home(generation)
    calls = home.change(PLAIN, watched)
    assert calls == ([] if generation == "v3" else ["UpdatePeer"])
    assert [reason for reason, _, _ in home.told] == (["NoBFD"] if generation == "v3" else [])
    assert home.observed(watched) == watched


@generations
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"asn": 65002}, "AS number (65001 to 65002)"),
        ({"hold_time": 30}, "hold time (90 to 30)"),
        ({"password": Secret("hunter2")}, "password"),
        ({"families": (4,)}, "families (4, 6 to 4)"),
        ({"multihop_ttl": 4, "port": 1790}, "port (179 to 1790) and multihop ttl (none to 4)"),
        ({"cluster_id": "0.0.0.42"}, "cluster id (none to 0.0.0.42)"),
        ({"restart_time": 90, "deferral_time": 5}, "restart time (none to 90) and deferral time (none to 5)"),
        ({"hold_time": 30, "bfd": Bfd()}, "hold time (90 to 30)"),
    ],
)
def test_what_begins_a_session_anew_is_told_before_with_peer_and_reason(generation: str, fields: dict[str, Any], words: str) -> None:
    home = Home(generation)
    assert home.change(PLAIN, replaced(PLAIN, **fields)) == ["DeletePeer", "AddPeer"]
    ((_, message, calls),) = [told for told in home.told if told[0] == "SessionRestart"]
    assert calls == 0
    assert message.startswith(f"the session with BGP peer 10.0.0.2 starts anew for its {words}")
    assert "hunter2" not in message


@generations
def test_a_session_that_is_not_up_needs_no_warning(generation: str) -> None:
    home = Home(generation, established=False)
    assert home.change(PLAIN, replaced(PLAIN, hold_time=30)) == ["DeletePeer", "AddPeer"]
    assert home.told == []


@generations
def test_an_equal_neighbour_costs_no_call(generation: str) -> None:
    assert Home(generation, RICH).change(None, RICH) == []


@generations
def test_a_session_that_the_peer_opened_to_another_address_of_ours_is_no_drift(generation: str) -> None:
    """gobgpd tells the address of the connection in place of the configured one; to put that right would end the session for ever."""
    home = Home(generation)
    home.gobgpd.peers[KEY.address].transport.local_address = "10.0.0.9"
    assert home.observed(PLAIN) == PLAIN
    home.gobgpd.peers[KEY.address].transport.local_address = "10.0.0.77"
    assert home.observed(PLAIN) != PLAIN
    home.gobgpd.peers[KEY.address].transport.local_address = "10.0.0.9"
    home.gobgpd.peers[KEY.address].state.session_state = 3
    assert home.observed(PLAIN) != PLAIN


@generations
def test_a_speaker_that_begins_anew_is_told_of_before(generation: str) -> None:
    home = Home(generation)
    after = msgspec.structs.replace(SPEAKER, asn=64513)
    if generation == "v3":
        with pytest.raises(Stale):
            home.target.apply([Change(SpeakerKey(), SPEAKER, after)])
    else:
        with pytest.raises(Exception, match="stopped"):
            home.target.apply([Change(SpeakerKey(), SPEAKER, after)])
    assert home.told[0][:2] == ("SessionRestart", "the BGP speaker and all its sessions start anew for its AS number (64512 to 64513)")
    assert home.told[0][2] == 0


@generations
def test_a_speaker_that_was_found_stopped_is_told_everything_anew(generation: str) -> None:
    """What it is believed to hold is gone: a neighbour added on top of that would have no rules."""
    home = Home(generation)
    home.gobgpd.restart()
    after = msgspec.structs.replace(SPEAKER, asn=64513)
    with pytest.raises(Stale):
        home.target.apply([Change(SpeakerKey(), SPEAKER, after), Change(NeighborKey("10.0.0.3"), None, PLAIN)])
    assert home.gobgpd.peers == {}


@generations
def test_r34_equal_paths_are_chosen_together_from_the_start(generation: str) -> None:
    home = Home(generation)
    assert home.gobgpd.settings.use_multiple_paths
    assert home.target.observe({SpeakerKey(): SPEAKER})[SpeakerKey()] == SPEAKER
