"""The text of /proc/net/ip_vs: destinations of the services that it shows."""

from __future__ import annotations

from kube_router.codec.ipvs_table import connections, destinations, parse
from kube_router.model.state.ipvs import Destination, DestinationKey, VirtualServerKey

TEXT = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0AE90001:01BB rr  persistent 10800 FFFFFFFF
  -> 0A010007:20FB      Masq    1      0          12
  -> 0A010008:20FB      Tunnel  0      3          0
UDP  [fd00:0233:0000:0000:0000:0000:0000:0003]:0035 rr
  -> [fd00:0064:0000:0000:0000:0000:0000:0007]:1F75      Masq    1      0          0
SCTP 0AE90001:01BB lc ops
TCP  C0A83232:192B wlc
  -> 0A010007:192B      Route   1      0          0
FWM  000034CA mh
  -> 0A010007:0050      Tunnel  1      4          1
FWM  000034CA rr
  -> [fd00:0064:0000:0000:0000:0000:0000:0007]:0050      Tunnel  0      2          0
FWM  000034CB rr
"""
WEB = VirtualServerKey("10.233.0.1", 6, 443, family=4)
DNS = VirtualServerKey("fd00:233::3", 17, 53, family=6)


def test_destinations_of_both_families():
    table = parse(TEXT)
    assert destinations(table, WEB) == {
        DestinationKey(WEB, "10.1.0.7", 8443): Destination(1, 0),
        DestinationKey(WEB, "10.1.0.8", 8443): Destination(0, 2),
    }
    assert destinations(table, DNS) == {DestinationKey(DNS, "fd00:64::7", 8053): Destination(1, 0)}


def test_a_service_without_destinations_has_none():
    assert destinations(parse(TEXT), VirtualServerKey("10.233.0.1", 132, 443, family=4)) == {}


def test_what_it_does_not_show_or_not_fully_has_to_be_asked_for():
    table = parse(TEXT)
    assert destinations(table, VirtualServerKey("10.233.0.1", 17, 443, family=4)) is None
    assert destinations(table, VirtualServerKey("10.233.0.1", 6, 444, family=4)) is None
    assert destinations(table, VirtualServerKey("192.168.50.50", 6, 6443, family=4)) is None, "a forwarding method that we never set"
    assert destinations(parse(""), WEB) is None


def test_services_by_mark_share_their_lines_by_family():
    table = parse(TEXT)
    four, six, empty = (VirtualServerKey("", 0, 0, mark=m, family=f) for m, f in ((0x34CA, 4), (0x34CA, 6), (0x34CB, 4)))
    assert destinations(table, four) == {DestinationKey(four, "10.1.0.7", 80): Destination(1, 2)}
    assert destinations(table, six) == {DestinationKey(six, "fd00:64::7", 80): Destination(0, 2)}
    assert destinations(table, empty) == {}
    assert destinations(table, VirtualServerKey("", 0, 0, mark=0x34CC, family=4)) is None


def test_connections_are_counted_with_those_that_are_ending():
    table = parse(TEXT)
    assert connections(table, WEB) == {DestinationKey(WEB, "10.1.0.7", 8443): 12, DestinationKey(WEB, "10.1.0.8", 8443): 3}
    mark = VirtualServerKey("", 0, 0, mark=0x34CA, family=6)
    assert connections(table, mark) == {DestinationKey(mark, "fd00:64::7", 80): 2}
    assert connections(table, VirtualServerKey("192.0.2.1", 6, 1, family=4)) == {}
