"""The text that `ipset restore` and `iptables-restore` are fed for a small node."""

from __future__ import annotations

import pytest

from kube_router.apply.kernel import iptables_jumps, iptables_section
from kube_router.codec import sets, tables
from kube_router.codec.rules import ACCEPT, RETURN, comment, ctstate, goto, jump, masquerade, match_set, matching, ports, reject, rule
from kube_router.codec.sets import net_entry, port_entry
from kube_router.kit.net import FAMILIES, Family
from kube_router.model.names import IPVS_SERVICES, POD_SUBNETS, set_name
from kube_router.model.state import Change, State
from kube_router.model.state.netfilter import Chain, ChainKey, Jump, JumpKey, Member, SetKey, SetMember, SetSpec
from tests.conftest import Golden

POD: dict[Family, str] = {4: "10.233.64.5", 6: "fd00:1::5"}
PODS: dict[Family, str] = {4: "10.233.64.0/24", 6: "fd00:1::/64"}
VIP: dict[Family, str] = {4: "10.233.0.1", 6: "fd00:2::1"}
CLASS, POLICY = "KUBE-POD-FW-AAAAAAAAAAAAAAAA", "KUBE-NWPLCY-BBBBBBBBBBBBBBBB"


def the_sets(family: Family) -> State:
    subnets, services, peers = (set_name(name, family) for name in (POD_SUBNETS, IPVS_SERVICES, "KUBE-SRC-CCCC"))
    return {
        SetKey(subnets): SetSpec("hash:net", family),
        SetKey(services): SetSpec("hash:ip,port", family),
        SetKey(peers): SetSpec("hash:net", family, maxelem=131072),
        SetMember(subnets, net_entry(PODS[family])): Member(),
        SetMember(services, port_entry(VIP[family], "TCP", 443)): Member(),
        SetMember(services, port_entry(VIP[family], "SCTP", 9)): Member(),
        SetMember(peers, net_entry(f"{POD[family]}/{32 if family == 4 else 128}")): Member(nomatch=True),
    }


def the_rules(family: Family) -> State:
    peers = set_name("KUBE-SRC-CCCC", family)
    allowed = rule(ACCEPT, match_set(peers, "src"), ports("tcp", 80, 90), comment('ns/it\'s "allowed" ingress pods'), protocol="TCP")
    judged = rule(ACCEPT, ctstate("ESTABLISHED", "RELATED")), rule(jump(POLICY)), rule(reject(family))
    return {
        ChainKey(family, "filter", POLICY): Chain((allowed,)),
        ChainKey(family, "filter", CLASS): Chain(judged),
        ChainKey(family, "filter", "KUBE-ROUTER-FORWARD"): Chain((rule(goto(CLASS), destination=POD[family]),)),
        ChainKey(family, "nat", "KUBE-ROUTER-EGRESS"): Chain((rule(RETURN, destination=PODS[family]), rule(masquerade()))),
        JumpKey(family, "filter", "FORWARD", "KUBE-ROUTER-FORWARD"): Jump(matching(comment("kube-router netpol"))),
        JumpKey(family, "nat", "POSTROUTING", "KUBE-ROUTER-EGRESS"): Jump(matching(source=PODS[family]), first=False),
    }


def creation(state: State) -> list[Change]:
    return [Change(key, None, value) for key, value in state.items()]


def removal(state: State) -> list[Change]:
    return [Change(key, value, None) for key, value in reversed(state.items())]


def restore_text(changes: list[Change], rules_now: dict[str, list[str]]) -> str:
    """Sections as the target renders them, with these rules in the built-in chains."""
    text = ""
    for by_table in iptables_section.sections(changes).values():
        for part in by_table.values():
            known = {key: jump for key, jump in part.jumps.items() if jump is not None}
            lines = [
                line
                for builtin, jumps in iptables_section.jump_changes(part.jumps).items()
                for line in iptables_jumps.settle(jumps, rules_now[builtin], known, lambda chain: chain.startswith("KUBE-"))
            ]
            text += tables.text(part.lines(lines))
    return text


@pytest.mark.parametrize("family", FAMILIES)
def test_sets(golden: Golden, family: Family) -> None:
    state = the_sets(family)
    there, gone = (sets.script(changes).lines for changes in (creation(state), removal(state)))
    golden(f"ipset_restore_v{family}.txt", "\n".join(["# all of it comes", *there, "# all of it goes", *gone, ""]))


@pytest.mark.parametrize("family", FAMILIES)
def test_rules(golden: Golden, family: Family) -> None:
    state = the_rules(family)
    foreign = ["-i lo -j ACCEPT"]
    there = restore_text(creation(state), {"FORWARD": foreign, "POSTROUTING": foreign})
    forward = [iptables_jumps.text_of(key, jump) for key, jump in state.items() if isinstance(key, JumpKey) and isinstance(jump, Jump)]
    gone = restore_text(removal(state), {"FORWARD": [forward[0], *foreign], "POSTROUTING": [*foreign, forward[1]]})
    golden(f"iptables_restore_v{family}.txt", f"# all of it comes\n{there}# all of it goes\n{gone}")
