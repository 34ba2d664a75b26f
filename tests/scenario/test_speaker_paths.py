"""How long a learned path holds: every way in which the speaker, we, or both go away and come back. Time is a number."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_router.cache.cache import Cache
from kube_router.codec.gobgp.paths import Paths, PathUpdate
from kube_router.codec.gobgp.speaker import PeerStatus
from kube_router.model.objects import BestPath, Kind, Name
from kube_router.watch.events import write
from kube_router.watch.speaker_paths import LearnedPaths

N2, N3, N4 = "192.168.50.51", "192.168.50.52", "192.168.50.53"
P2, P3, P4 = "10.233.66.0/24", "10.233.65.0/24", "10.233.67.0/24"
KERNEL = (BestPath(Name("", P2), (N2,)), BestPath(Name("", P3), (N3,)))
PEERS = frozenset({N2, N3})


def up(address: str, *, listening: bool = False) -> PeerStatus:
    return PeerStatus(address, 64512, internal=True, state="established", up_once=True, listening=listening)


def down(address: str, *, up_once: bool = False) -> PeerStatus:
    return PeerStatus(address, 64512, internal=True, state="active", up_once=up_once)


class Lab:
    """Learned paths, the cache they go to, and a clock. `table` is what the speaker's own table holds."""

    def __init__(self, kernel: Iterable[BestPath] = (), *, patience: float = 90.0, settle: float = 6.0) -> None:
        self.paths = LearnedPaths(patience=patience, settle=settle)
        self.cache = Cache()
        self.now = 1000.0
        self.table: dict[str, str] = {}
        self.paths.adopt(kernel)

    def opens(self, table: Mapping[str, str] | None = None) -> None:
        """A watch begins; a speaker that is started tells its table at once, one that is not has none."""
        self.paths.opened(self.now)
        self.table = dict(table or {})
        if table is not None:
            self.tells(*(PathUpdate(prefix, hop) for prefix, hop in table.items()))
        write(self.paths.list(), self.cache)

    def tells(self, *updates: PathUpdate) -> None:
        for update in updates:
            if update.withdrawn or update.local:
                self.table.pop(update.prefix, None)
            else:
                self.table[update.prefix] = update.next_hop
        write(self.paths.learn([Paths(tuple(updates))]), self.cache)

    def looks(self, wanted: frozenset[str] | None, *peers: PeerStatus, after: float = 0.0) -> None:
        """Some time later somebody looks at the sessions."""
        self.now += after
        due = self.paths.due(self.now, wanted, {peer.address: peer for peer in peers})
        table = [PathUpdate(prefix, hop) for prefix, hop in self.table.items()]
        write(self.paths.release(due, table, frozenset()), self.cache)

    @property
    def routes(self) -> dict[str, tuple[str, ...]]:
        """What the cache holds; None where nobody may act on it."""
        assert self.cache.listed([Kind.BEST_PATH])
        return {name.name: path.next_hops for name, path in self.cache.view.paths.items()}


BOTH_ROUTES = {P2: (N2,), P3: (N3,)}


def test_without_a_speaker_nothing_is_listed_so_nobody_acts() -> None:
    lab = Lab(KERNEL)
    assert not lab.cache.listed([Kind.BEST_PATH])


# -- we restart, the speaker lives ------------------------------------------------------------------------------------


def test_our_restart_over_a_live_speaker_moves_no_route() -> None:
    lab = Lab(KERNEL)
    lab.opens({P2: N2, P3: N3})
    assert lab.routes == BOTH_ROUTES
    assert lab.paths.stale == frozenset()


def test_what_changed_while_we_were_away_is_routed_at_once() -> None:
    lab = Lab(KERNEL)
    lab.opens({P2: N3, P3: N3, P4: N4})
    assert lab.routes == {P2: (N3,), P3: (N3,), P4: (N4,)}


def test_what_went_while_we_were_away_goes_once_its_peer_is_decided() -> None:
    lab = Lab(KERNEL)
    lab.opens({P2: N2})
    lab.looks(PEERS, up(N2), up(N3))
    assert lab.routes == BOTH_ROUTES
    lab.looks(PEERS, up(N2), up(N3), after=6.0)
    assert lab.routes == {P2: (N2,)}


def test_a_peer_that_died_while_we_were_away_is_decided_by_the_speaker() -> None:
    lab = Lab(KERNEL)
    lab.opens({P2: N2})
    lab.looks(PEERS, up(N2), down(N3, up_once=True))
    assert lab.routes == {P2: (N2,)}


def test_a_node_that_was_dead_all_along_delays_nothing_but_its_own_routes() -> None:
    lab = Lab((*KERNEL, BestPath(Name("", P4), (N4,))))
    lab.opens({P2: N2})
    lab.looks(PEERS | {N4}, up(N2), up(N3), down(N4))
    lab.looks(PEERS | {N4}, up(N2), up(N3), down(N4), after=6.0)
    assert lab.routes == {P2: (N2,), P4: (N4,)}
    lab.looks(PEERS | {N4}, up(N2), up(N3), down(N4), after=83.0)
    assert P4 in lab.routes
    lab.looks(PEERS | {N4}, up(N2), up(N3), down(N4), after=1.5)
    assert lab.routes == {P2: (N2,)}


def test_new_paths_are_routed_while_others_are_waited_for() -> None:
    lab = Lab(KERNEL)
    lab.opens({})
    lab.tells(PathUpdate(P4, N4))
    assert lab.routes == BOTH_ROUTES | {P4: (N4,)}


# -- the speaker restarts, we live ------------------------------------------------------------------------------------


def running() -> Lab:
    lab = Lab()
    lab.opens({P2: N2, P3: N3})
    return lab


def test_the_death_of_the_stream_removes_nothing_however_long_it_lasts() -> None:
    lab = running()
    lab.now += 86400
    assert lab.routes == BOTH_ROUTES


def test_a_restarted_speaker_that_knows_nothing_yet_removes_nothing() -> None:
    lab = running()
    lab.opens()
    lab.looks(PEERS)
    lab.looks(PEERS, down(N2), down(N3), after=30.0)
    assert lab.routes == BOTH_ROUTES


def test_paths_are_confirmed_as_peers_come_back_and_the_rest_goes_after_they_settled() -> None:
    lab = running()
    lab.opens()
    lab.looks(PEERS, down(N2), down(N3), after=1.0)
    lab.tells(PathUpdate(P2, N2))
    lab.looks(PEERS, up(N2), up(N3), after=5.0)
    lab.looks(PEERS, up(N2), up(N3), after=5.9)
    assert lab.routes == BOTH_ROUTES
    lab.looks(PEERS, up(N2), up(N3), after=0.2)
    assert lab.routes == {P2: (N2,)}


def test_a_peer_that_owes_its_end_of_rib_is_waited_for() -> None:
    lab = running()
    lab.opens()
    lab.looks(PEERS, up(N2, listening=True), up(N3), after=1.0)
    lab.looks(PEERS, up(N2, listening=True), up(N3), after=60.0)
    assert P2 in lab.routes
    assert P3 not in lab.routes
    lab.looks(PEERS, up(N2), up(N3), after=1.0)
    assert lab.routes == {}


def test_a_peer_that_flaps_settles_anew() -> None:
    lab = running()
    lab.opens()
    lab.looks(PEERS, up(N2), up(N3), after=1.0)
    lab.looks(PEERS, up(N2), down(N3), after=5.0)
    lab.looks(PEERS, up(N2), up(N3), after=1.0)
    lab.looks(PEERS, up(N2), up(N3), after=5.0)
    assert lab.routes == {P3: (N3,)}


def test_patience_ends_a_wait_for_peers_that_never_come() -> None:
    lab = running()
    lab.opens()
    lab.tells(PathUpdate(P2, N2))
    lab.looks(PEERS, up(N2), after=89.0)
    assert lab.routes == BOTH_ROUTES
    lab.looks(PEERS, up(N2), after=1.0)
    assert lab.routes == {P2: (N2,)}


def test_patience_begins_anew_with_each_speaker() -> None:
    lab = running()
    lab.opens()
    lab.looks(PEERS, after=80.0)
    lab.opens()
    lab.looks(PEERS, after=80.0)
    assert lab.routes == BOTH_ROUTES


def test_patience_does_not_run_before_the_speaker_is_programmed() -> None:
    lab = Lab(KERNEL)
    lab.opens()
    lab.looks(None, after=500.0)
    assert lab.routes == BOTH_ROUTES
    lab.looks(PEERS, after=89.0)
    assert lab.routes == BOTH_ROUTES
    lab.looks(PEERS, after=1.0)
    assert lab.routes == {}


def test_the_speakers_table_has_the_last_word() -> None:
    lab = running()
    lab.opens()
    lab.table = {P2: N2}  # no event told of it
    lab.looks(PEERS, after=90.0)
    assert lab.routes == {P2: (N2,)}
    assert lab.paths.stale == frozenset()


def test_an_event_that_overtakes_the_table_wins() -> None:
    lab = running()
    lab.opens()
    due = lab.paths.due(lab.now + 90.0, PEERS, {})
    lab.tells(PathUpdate(P3, N4))
    write(lab.paths.release(due, [PathUpdate(P3, N3)], {P3}), lab.cache)
    assert lab.routes == {P3: (N4,)}


# -- both restart -----------------------------------------------------------------------------------------------------


def test_when_both_restart_the_kernels_routes_hold_until_peers_are_decided() -> None:
    lab = Lab(KERNEL)
    lab.opens()
    lab.looks(None)
    lab.looks(PEERS, down(N2), down(N3), after=2.0)
    assert lab.routes == BOTH_ROUTES
    lab.tells(PathUpdate(P2, N2))
    lab.tells(PathUpdate(P3, N3))
    lab.looks(PEERS, up(N2), up(N3), after=8.0)
    lab.looks(PEERS, up(N2), up(N3), after=8.0)
    assert lab.routes == BOTH_ROUTES


def test_a_node_alone_in_its_cluster_keeps_nothing_of_former_times() -> None:
    lab = Lab(KERNEL)
    lab.opens({})
    lab.looks(frozenset())
    assert lab.routes == {}


# -- paths themselves -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("updates", "routes"),
    [
        ([PathUpdate(P2, N3)], {P2: (N3,), P3: (N3,)}),
        ([PathUpdate(P2, withdrawn=True)], {P3: (N3,)}),
        ([PathUpdate(P2, "192.168.50.50", local=True)], {P3: (N3,)}),
        ([PathUpdate(P4, "192.168.50.50", local=True)], BOTH_ROUTES),
        ([PathUpdate(P4, withdrawn=True, local=True)], BOTH_ROUTES),
        ([PathUpdate(P4, N4, source=N4), PathUpdate(P4, N3, source=N3)], BOTH_ROUTES | {P4: (N3, N4)}),
        ([PathUpdate(P4, "192.168.50.50", local=True), PathUpdate(P2, N4), PathUpdate(P3, withdrawn=True)], {P2: (N4,)}),
        ([], BOTH_ROUTES),
    ],
)
def test_each_update_counts_alone(updates: list[PathUpdate], routes: dict[str, tuple[str, ...]]) -> None:
    lab = running()
    lab.tells(*updates)
    assert lab.routes == routes


def test_a_path_told_again_tells_the_cache_nothing() -> None:
    lab = running()
    assert lab.paths.learn([Paths((PathUpdate(P2, N2),))]) == ()


def test_both_families_are_followed_alike() -> None:
    lab = Lab([BestPath(Name("", "fd00:66::/64"), ("fd00:50::51",))])
    lab.opens({"fd00:66::/64": "fd00:50::51", "fd00:65::/64": "fd00:50::52"})
    assert lab.routes == {"fd00:66::/64": ("fd00:50::51",), "fd00:65::/64": ("fd00:50::52",)}


# -- any order --------------------------------------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.builds(PathUpdate, st.sampled_from([P2, P3, P4]), st.sampled_from([N2, N3])),
        st.builds(PathUpdate, st.sampled_from([P2, P3, P4]), withdrawn=st.just(True)),
        st.builds(PathUpdate, st.sampled_from([P2, P3, P4]), st.just("192.168.50.50"), local=st.just(True)),
        st.just("opens"),
        st.just("restart"),
        st.floats(0.0, 100.0).map(lambda seconds: ("looks", seconds)),
    ),
    max_size=20,
)


@settings(max_examples=150, deadline=None)
@given(steps, st.booleans())
def test_when_all_is_settled_the_routes_are_the_speakers_table(history: list[object], reversed_: bool) -> None:
    lab = Lab(KERNEL)
    lab.opens({})
    for step in reversed(history) if reversed_ else history:
        match step:
            case PathUpdate():
                lab.tells(step)
            case "opens":
                lab.opens()
            case "restart":  # ours: the kernel has what the cache had
                kernel = list(lab.cache.view.paths.values())
                table, now = lab.table, lab.now
                lab = Lab(kernel)
                lab.now = now
                lab.opens(table)
            case ("looks", float(seconds)):
                lab.looks(PEERS, up(N2), up(N3), after=seconds)
    lab.looks(PEERS, up(N2), up(N3))
    lab.looks(PEERS, up(N2), up(N3), after=90.0)
    assert lab.routes == {prefix: (hop,) for prefix, hop in lab.table.items()}
    assert lab.paths.stale == frozenset()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_peers_may_come_back_in_any_order_without_a_gap(order: tuple[int, ...]) -> None:
    lab = Lab([BestPath(Name("", prefix), (hop,)) for prefix, hop in ((P2, N2), (P3, N3), (P4, N4))])
    lab.opens()
    back: list[PeerStatus] = []
    everyone = frozenset({N2, N3, N4})
    for n in order:
        prefix, hop = ((P2, N2), (P3, N3), (P4, N4))[n]
        lab.looks(everyone, *back, after=4.0)
        lab.tells(PathUpdate(prefix, hop))
        back.append(up(hop))
        assert lab.routes == {P2: (N2,), P3: (N3,), P4: (N4,)}
    lab.looks(everyone, *back)
    lab.looks(everyone, *back, after=90.0)
    assert lab.routes == {P2: (N2,), P3: (N3,), P4: (N4,)}


def via(hop: str, source: str, prefix: str = P2) -> PathUpdate:
    return PathUpdate(prefix, hop, source=source)


def gone(source: str, prefix: str = P2) -> PathUpdate:
    return PathUpdate(prefix, withdrawn=True, source=source)


@pytest.mark.parametrize(
    ("changes", "hops"),
    [
        # All equal paths each time, as the third generation tells them; what a prefix had before is replaced.
        ([Paths((via(N2, "a"), via(N3, "b")))], (N2, N3)),
        ([Paths((via(N2, "a"), via(N3, "b"))), Paths((via(N3, "b"),))], (N3,)),
        ([Paths((via(N2, "a"),)), Paths((via(N3, "b"),))], (N3,)),
        ([Paths((via(N2, "a"),)), Paths((gone("a"),))], None),
        ([Paths((gone("a"),)), Paths((via(N2, "a"),))], (N2,)),
        # Only what changed, as the fourth does.
        ([Paths((via(N2, "a"),), delta=True), Paths((via(N3, "b"),), delta=True)], (N2, N3)),
        ([Paths((via(N2, "a"),), delta=True), Paths((gone("a"), via(N3, "b")), delta=True)], (N3,)),
        ([Paths((via(N2, "a"), via(N3, "b")), delta=True), Paths((gone("a"),), delta=True)], (N3,)),
        ([Paths((via(N2, "a"),), delta=True), Paths((via(N3, "a"),), delta=True)], (N3,)),
        ([Paths((via(N2, "a"), via(N2, "b")), delta=True), Paths((gone("a"),), delta=True)], (N2,)),
        ([Paths((via(N2, "a"),), delta=True), Paths((gone("a"), PathUpdate(P2, N2, local=True)), delta=True)], None),
    ],
)
@pytest.mark.parametrize("squashed", [True, False])
def test_r34_equal_paths_are_one_choice_however_the_speaker_tells_them(
    changes: list[Paths], hops: tuple[str, ...] | None, squashed: bool
) -> None:
    lab = Lab()
    lab.opens({})
    for batch in [changes] if squashed else [[change] for change in changes]:
        write(lab.paths.learn(batch), lab.cache)
    assert lab.routes == ({P2: hops} if hops else {})


@pytest.mark.parametrize("delta", [True, False])
def test_what_a_speaker_says_first_of_a_stale_prefix_is_all_there_is_to_it(delta: bool) -> None:
    lab = Lab([BestPath(Name("", P2), (N2, N3))])
    lab.opens()
    write(lab.paths.learn([Paths((via(N4, "c"),), delta=delta)]), lab.cache)
    assert lab.routes == {P2: (N4,)}
