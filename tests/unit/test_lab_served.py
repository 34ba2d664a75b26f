"""What a node serves, as the lab's tests read it."""

from __future__ import annotations

from tests.lab.served import joined, parse

SAVED = """\
-A -t 10.233.0.1:443 -s rr
-a -t 10.233.0.1:443 -r 192.168.50.10:6443 -m -w 1
-A -f 11213 -s rr
-a -f 11213 -r 10.233.66.3:8080 -m -w 1
-A -u [fd00:233::1]:53 -s rr
-a -u [fd00:233::1]:53 -r [fd00:64::3]:5353 -m -w 1
-A --sctp-service 10.233.0.9:70 -s rr
-A -t 203.0.113.9:80 -s rr -p 10800
"""


def test_servers_by_address_are_read_with_their_destinations_and_those_by_mark_are_left_out() -> None:
    assert parse(SAVED) == {
        "10.233.0.1:443/tcp": {"192.168.50.10:6443"},
        "[fd00:233::1]:53/udp": {"[fd00:64::3]:5353"},
        "10.233.0.9:70/sctp": frozenset(),
        "203.0.113.9:80/tcp": frozenset(),
    }


def test_an_address_and_a_port_are_joined_as_people_write_them() -> None:
    assert (joined("10.0.0.1", 80), joined("fd00::1", 80)) == ("10.0.0.1:80", "[fd00::1]:80")
