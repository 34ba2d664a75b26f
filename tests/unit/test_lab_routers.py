"""What FRR and BIRD say, read into one form, and the configurations that they are given."""

from __future__ import annotations

from lab.addresses import SEGMENTS, Host
from lab.routers import bird, frr
from lab.routers.model import Announcement, Peering, Route, Session, Wanted, canonical_community

HERE = Host("bird", SEGMENTS["a"], 4)

PROTOCOLS = """\
BIRD 2.0.12 ready.
Name       Proto      Table      State  Since         Info
device1    Device     ---        up     14:36:35.139  

p_192_168_50_50 BGP        ---        up     14:36:35.913  Established   
  BGP state:          Established
    Neighbor address: 192.168.50.50
    Neighbor AS:      64512
    Local AS:         64602
    Neighbor ID:      192.168.50.50
    Local capabilities
      Graceful restart
        Restart time: 120
    Neighbor capabilities
      Multiprotocol
        AF announced: ipv4 ipv6
      Route refresh
      Graceful restart
        Restart time: 90
        Restart recovery
        AF supported: ipv4 ipv6
        AF preserved: ipv4
      4-octet AS numbers
      Hostname: node1
    Session:          external AS4
    Hold timer:       68.863/90
    Last error:       Received: Hold timer expired
  Channel ipv4
    State:          UP

p_fd00_50__33 BGP        ---        start  14:36:35.913  Connect       
  BGP state:          Connect
    Neighbor address: fd00:50::33
    Last error:       Socket: Connection refused
"""  # noqa: W291  as it is

LOG = "".join(f"<TRACE> {name}: State changed to up\n" for name in ("p_192_168_50_50", "p_192_168_50_50", "p_192_168_50_5"))

ROUTES = """\
BIRD 2.0.12 ready.
Table master4:
203.0.113.9/32       unicast [p_192_168_50_50 14:36:35.913] * (100) [AS64512i]
\tvia 192.168.50.50 on eth0
\tType: BGP univ
\tBGP.origin: IGP
\tBGP.as_path: 64512 64512
\tBGP.next_hop: 192.168.50.50
\tBGP.local_pref: 100
\tBGP.community: (64512,7) (65535,65281)
203.0.113.10/32      unicast [p_192_168_50_50 14:36:35.913] * (100s) [AS64512i]
\tvia 192.168.50.50 on eth0
\tBGP.as_path: 64512
\tBGP.next_hop: 192.168.50.50

Table master6:
fd00:1::/64          unicast [p_192_168_50_50 14:36:35.913] ! (100) [AS64512i]
\tvia fd00:50::32 on eth0
\tBGP.as_path: 64512
\tBGP.next_hop: fd00:50::32 fe80::1
"""


def test_birds_sessions_are_read() -> None:
    assert dict(bird.sessions(PROTOCOLS, log=LOG)) == {
        "192.168.50.50": Session(
            True,
            2,
            hold_time=90,
            families=frozenset({4, 6}),
            restart_time=90,
            restart_families=frozenset({4, 6}),
            preserved=frozenset({4}),
            host_name="node1",
            problem="Received: Hold timer expired",
        ),
        "fd00:50::33": Session(False, problem="Socket: Connection refused"),
    }


def test_birds_routes_are_read() -> None:
    assert dict(bird.routes(ROUTES)) == {
        "203.0.113.9/32": Route("192.168.50.50", (64512, 64512), communities=frozenset({"64512:7", "65535:65281"}), local_preference=100),
        "203.0.113.10/32": Route("192.168.50.50", (64512,), stale=True),
        "fd00:1::/64": Route("fd00:50::32", (64512,)),
    }


def test_bird_is_configured_with_all_that_is_wanted() -> None:
    peering = Peering("192.168.50.50", 64512, password="x y", port=1790, ttl=3, hold_time=30, bfd=True, passive=True, families=(6,))
    wanted = Wanted({peering.address: peering}, {"fd00:7::/48": Announcement("fd00:7::/48", "fd00:50::9", ("64602:7",))})
    text = bird.configuration(64602, HERE, wanted, port=1179)
    for line in (
        "local 192.168.50.4 port 1179 as 64602;",
        "neighbor 192.168.50.50 port 1790 as 64512;",
        "hold time 30;",
        "multihop 3;",
        'password "x y";',
        "passive on;",
        "bfd on;",
        "ipv6 { import all; export where source = RTS_STATIC; };",
        "route fd00:7::/48 blackhole { bgp_community.add((64602,7)); bgp_next_hop = fd00:50::9; };",
    ):
        assert line in text
    assert "ipv4 { import all; export where source = RTS_STATIC; };" not in text


def test_frrs_sessions_are_read() -> None:
    told = {
        "bgpState": "Established",
        "connectionsEstablished": 3,
        "lastResetDueTo": "BFD down received",
        "bgpTimerHoldTimeMsecs": 30000,
        "neighborCapabilities": {
            "multiprotocolExtensions": {"ipv4Unicast": {"advertisedAndReceived": True}, "ipv6Unicast": {"advertised": True}},
            "gracefulRestart": "advertisedAndReceived",
            "gracefulRestartRemoteTimerMsecs": 90000,
            "addressFamiliesByPeer": {"ipv4Unicast": {}},
            "hostName": {"advHostName": "frr", "rcvHostName": "node1"},
        },
        "gracefulRestartInfo": {"ipv4Unicast": {"fBit": True}, "ipv6Unicast": {"fBit": False}},
    }
    assert frr.session(told) == Session(
        True,
        3,
        hold_time=30,
        families=frozenset({4}),
        restart_time=90,
        restart_families=frozenset({4}),
        preserved=frozenset({4}),
        host_name="node1",
        problem="BFD down received",
    )
    assert frr.session({"bgpState": "Active", "connectionsEstablished": 1}) == Session(False, 1)


def test_frrs_routes_are_read() -> None:
    path = {
        "aspath": {"segments": [{"type": "as-sequence", "list": [64512, 64512]}]},
        "community": {"list": ["64512:7", "noExport"]},
        "nexthops": [{"ip": "fe80::1", "scope": "link-local"}, {"ip": "fd00:50::32", "scope": "global"}],
        "locPrf": 50,
        "stale": True,
    }
    assert frr.route(path) == Route("fd00:50::32", (64512, 64512), frozenset({"64512:7", "65535:65281"}), 50, stale=True)


def test_frr_is_told_only_what_changed() -> None:
    first, second = Peering("192.168.50.50", 64512), Peering("192.168.50.51", 64512)
    kept, gone = Announcement("198.18.1.0/24"), Announcement("fd00:7::/48")
    before = Wanted({first.address: first, second.address: second}, {kept.prefix: kept, gone.prefix: gone})
    after = Wanted({first.address: first}, {kept.prefix: kept})
    assert frr.changed_lines(64601, before, before) == []
    lines = frr.changed_lines(64601, before, after)
    assert "no network fd00:7::/48" in lines
    assert "no neighbor 192.168.50.51" in lines
    assert not [line for line in lines if first.address in line or kept.prefix in line]


def test_frr_is_configured_with_all_that_is_wanted() -> None:
    peering = Peering(
        "192.168.50.50", 64512, password="x", port=1790, ttl=3, local_address="192.168.50.9", hold_time=30, bfd=True, passive=True
    )
    wanted = Wanted({peering.address: peering}, {"198.18.1.0/24": Announcement("198.18.1.0/24", "192.168.50.9", ("64601:7", "64601:8"))})
    lines = frr.bgpd_lines(64601, "192.168.50.3", wanted)
    for line in (
        "neighbor 192.168.50.50 remote-as 64512",
        "neighbor 192.168.50.50 timers 10 30",
        "neighbor 192.168.50.50 port 1790",
        "neighbor 192.168.50.50 password x",
        "neighbor 192.168.50.50 ebgp-multihop 3",
        "neighbor 192.168.50.50 update-source 192.168.50.9",
        "neighbor 192.168.50.50 passive",
        "set ip next-hop 192.168.50.9",
        "set community 64601:7 64601:8",
        "network 198.18.1.0/24 route-map to-198.18.1.0-24",
    ):
        assert line in lines


def test_communities_have_one_spelling() -> None:
    assert [canonical_community(text) for text in ("noExport", "no-export", "64512:7")] == ["65535:65281", "65535:65281", "64512:7"]
