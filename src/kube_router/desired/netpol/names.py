"""Names of chains, sets and comments of network policy.

Every name but the fixed ones is made from what the thing stands for, so that equal things share one and a renamed or edited
policy never finds another's members under its name. 28 characters are the most for a chain, 31 for a set.
"""

from __future__ import annotations

from typing import Final

from kube_router.cache.policies import Direction, NamedPort, PolicyClass, Use
from kube_router.cache.selectors import identity
from kube_router.codec import rules
from kube_router.kit.net import Family
from kube_router.model.names import ISOLATED_EGRESS, ISOLATED_INGRESS, set_name
from kube_router.model.objects import Name

TABLE: Final = "filter"
COMMON: Final = "KUBE-NWPLCY-COMMON"
DISPATCH: Final[dict[Direction, str]] = {"egress": "KUBE-NWPLCY-EGRESS", "ingress": "KUBE-NWPLCY-INGRESS"}
ISOLATED: Final[dict[Direction, str]] = {"egress": ISOLATED_EGRESS, "ingress": ISOLATED_INGRESS}
SELF: Final = "KUBE-POD-SELF"  # pairs of an address with itself

# The end of a connection that a direction's policies isolate, and the other one.
OWN_SIDE: Final[dict[Direction, str]] = {"egress": "src", "ingress": "dst"}
PEER_SIDE: Final[dict[Direction, str]] = {"egress": "dst", "ingress": "src"}
_PEER_PREFIX: Final[dict[Direction, str]] = {"egress": "KUBE-DST-", "ingress": "KUBE-SRC-"}

LOG_GROUP: Final = 100  # NFLOG group of denied packets, pkg/controllers/netpol of the original
_COMMENT_BYTES: Final = 120


def policy_chain(use: Use) -> str:
    """Chain of a policy in a direction."""
    return "KUBE-NWPLCY-" + identity("policy", use.direction, *use.policy)


def class_chain(known: PolicyClass) -> str:
    """Chain of a class."""
    return "KUBE-POD-FW-" + _class_id(known)


def class_set(known: PolicyClass, family: Family) -> str:
    """Set of a class's addresses."""
    return set_name("KUBE-POD-" + _class_id(known), family)


def selection_set(direction: Direction, selection: str, family: Family) -> str:
    """Set of the addresses that a selection (by identity) picks as peers."""
    return set_name(_PEER_PREFIX[direction] + selection, family)


def block_set(direction: Direction, identity_of_blocks: str, family: Family) -> str:
    """Set of address ranges."""
    return set_name(_PEER_PREFIX[direction] + identity_of_blocks, family)


def port_set(port: NamedPort, family: Family) -> str:
    """Set of the addresses and ports that bear a port's name. Always of destinations."""
    return set_name("KUBE-DST-" + identity("port", *port), family)


def comment(name: Name | str, words: str) -> str:
    """A rule's comment: whose rule it is, then what for, in 120 bytes."""
    text = f"{name} {words}"
    return rules.comment(text.encode()[:_COMMENT_BYTES].decode(errors="ignore"))


def _class_id(known: PolicyClass) -> str:
    return identity("class", known.direction, *(part for name in known.policies for part in name))
