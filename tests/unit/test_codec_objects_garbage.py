"""Whatever arrives, decoding ends in objects, faults or Malformed, and in nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_router.codec.objects import KINDS, Decoded, Malformed, decode_item, decode_page, decode_refusal, decode_signal
from kube_router.model.objects import Kind

kinds = st.sampled_from(sorted(KINDS, key=lambda kind: kind.value))

# Field names of all kinds, so that garbage gets deep into the decoders.
FIELD_NAMES = (
    "metadata spec status name namespace labels annotations resourceVersion podCIDRs podCIDR addresses address type ports port protocol "
    "containers initContainers restartPolicy containerPort podIPs podIP ip clusterIP clusterIPs externalIPs nodePort sessionAffinity "
    "loadBalancer ingress ipMode endpoints conditions ready hints forZones podSelector matchLabels matchExpressions key operator values "
    "policyTypes egress from to ipBlock cidr except endPort namespaceSelector loadBalancerSourceRanges"
)
WORDS = ["10.0.0.1", "10.0.0.0/8", "fd00::1", "None", "In", "Exists", "TCP", "Ingress", "ClientIP", "Local", "InternalIP", ""]

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(WORDS)
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELD_NAMES.split()), inner, max_size=6),
    max_leaves=30,
)
named = st.dictionaries(st.sampled_from(FIELD_NAMES.split()), values, max_size=5).map(
    lambda body: {**body, "metadata": {"name": "a", "resourceVersion": "1"}}
)


def check(decoded: Decoded, kind: Kind) -> None:
    assert decoded.ref.kind is kind
    assert decoded.object is not None or decoded.faults
    for fault in decoded.faults:
        assert fault.ref == decoded.ref
        assert fault.field
        assert fault.message
        assert len(fault.value) < 200
        assert str(fault).isprintable()
    if decoded.object is not None:
        assert decoded.object.name == decoded.ref.name
        hash(decoded.faults)


@settings(deadline=None)  # machines that run tests are busy
@given(kinds, st.binary(max_size=200))
def test_bytes(kind: Kind, raw: bytes) -> None:
    check(decode_item(kind, raw), kind)


@settings(deadline=None)  # machines that run tests are busy
@given(kinds, named | values)
def test_json_of_any_shape(kind: Kind, body: Any) -> None:
    check(decode_item(kind, json.dumps(body).encode()), kind)


@settings(deadline=None)  # machines that run tests are busy
@given(kinds, st.binary(max_size=100) | values.map(lambda value: json.dumps(value).encode()))
def test_bodies_and_lines(kind: Kind, body: bytes) -> None:
    for decode in (decode_page, decode_signal):
        try:
            decode(kind, body)
        except Malformed:
            continue
    assert decode_refusal(body, code=500).code is not None


@settings(deadline=None)  # machines that run tests are busy
@given(kinds, st.lists(named | values, max_size=5))
def test_a_list_has_as_many_results_as_items(kind: Kind, items: list[Any]) -> None:
    page = decode_page(kind, json.dumps({"metadata": {"resourceVersion": "1"}, "items": items}).encode())
    assert len(page.items) == len(items)
    for decoded in page.items:
        check(decoded, kind)


@pytest.mark.parametrize("kind", sorted(KINDS, key=lambda kind: kind.value))
def test_nesting_without_end(kind: Kind) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    check(decode_item(kind, b'{"metadata": {"name": "a"}, "x": ' + deep + b"}"), kind)
    with pytest.raises(Malformed):
        decode_page(kind, b'{"metadata": {"resourceVersion": "1"}, "items": [' + deep + b"]}")
