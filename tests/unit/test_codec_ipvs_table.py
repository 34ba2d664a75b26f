"""The text of /proc/net/ip_vs: destinations of the services that it shows."""

from __future__ import annotations

from kube_router.codec.ipvs_table import destinations, parse
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
FWM  000034CA IPv6 rr
  -> 0A010007:192B      Tunnel  1      0          0
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
    assert destinations(table, VirtualServerKey("", 0, 0, mark=0x34CA, family=6)) is None, "a mark without its family"
    assert destinations(parse(""), WEB) is None
