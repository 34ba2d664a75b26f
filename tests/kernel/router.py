"""A router outside the cluster: a gobgpd on the segment of a mesh that we do not manage, told what a test needs of it."""

from __future__ import annotations

from typing import Any

from kube_router.apply.gobgp.client import Client
from kube_router.codec.gobgp import paths as path_codec
from kube_router.codec.gobgp import speaker as codec
from kube_router.codec.gobgp.speaker import PeerStatus, status_of
from kube_router.kit.net import FAMILIES
from kube_router.model.state.bgp import Neighbor, NeighborKey, Path, PathKey
from kube_router.model.state.bgp import Speaker as Settings
from lab.kernel_netns import Netns
from tests.speakers import Speaker


class Router:
    """Router n: 192.168.50.(200+n) and fd00:50::(200+n), AS 65000+n."""

    def __init__(self, number: int, speaker: Speaker, segment: Netns) -> None:
        self.asn = 65000 + number
        self.addresses = {4: f"192.168.50.{200 + number}", 6: f"fd00:50::{200 + number}"}
        self.speaker, self.netns = speaker, speaker.netns
        port = f"r{number}"
        segment.run(f"ip link add {port} type veth peer name up0 netns {self.netns.path}")
        segment.run(f"ip link set {port} master br0 up")
        self.netns.run(f"ip addr add {self.addresses[4]}/24 dev up0")
        self.netns.run(f"ip addr add {self.addresses[6]}/64 dev up0 nodad")
        self.netns.run("ip link set up0 up")
        self.netns.run("ip link set lo up")

    def start(self, *, port: int = 179) -> None:
        self.speaker.start()
        self.client = Client(self.speaker.target)
        settings = Settings(self.asn, self.addresses[4], port, tuple(sorted(self.addresses.values())))
        self.client.send("StartBgp", **{"global": getattr(codec.start_request(self.client.generation(), settings), "global")})

    def stop(self) -> None:
        self.client.close()
        self.speaker.stop()

    def peer(self, address: str, **settings: Any) -> None:
        """Have a session with a node; `settings` are those of a Neighbor."""
        local = self.addresses[6 if ":" in address else 4]
        neighbor = Neighbor(**({"asn": 64512, "local_address": local, "families": FAMILIES} | settings))
        self.client.send("AddPeer", peer=codec.peer(self.client.generation(), NeighborKey(address), neighbor))

    def unpeer(self, address: str) -> None:
        self.client.send("DeletePeer", address=address)

    def announce(self, prefix: str) -> None:
        generation = self.client.generation()
        path = path_codec.path(generation, PathKey(prefix), Path(self.addresses[6 if ":" in prefix else 4]))
        self.client.send("AddPath", table_type=generation.table_global, path=path)

    def sessions(self) -> dict[str, PeerStatus]:
        return {status.address: status for status in (status_of(reply.peer) for reply in self.client.list("ListPeer"))}

    def peers(self) -> dict[str, Any]:
        return {reply.peer.conf.neighbor_address: reply.peer for reply in self.client.list("ListPeer")}

    def received(self) -> dict[str, str]:
        """Prefixes that it learned, and their next hops."""
        generation = self.client.generation()
        found = {}
        for of in FAMILIES:
            for reply in self.client.list("ListPath", table_type=generation.table_global, family=codec.family(generation, of)):
                found.update(
                    {update.prefix: update.next_hop for update in path_codec.best_of(generation, reply.destination) if not update.local}
                )
        return found
