"""The quick way to canonical text says what the long one says."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kube_router.kit.net import canonical_network

numbers = st.sampled_from(["0", "1", "01", "10", "127", "255", "256", "", " 1", "٣"])
lengths = st.sampled_from(["", "/", "/0", "/8", "/08", "/24", "/31", "/32", "/33", "/-1", "/٣", "/24 ", "/255.255.255.0", "/24/8"])
texts = st.builds(lambda parts, length: ".".join(parts) + length, st.lists(numbers, min_size=3, max_size=5), lengths)


@given(text=texts | st.ip_addresses().map(str) | st.from_regex(r"[0-9a-f:]{2,12}(/[0-9]{1,3})?", fullmatch=True))
@example(text="0.0.0.0/0")
@example(text="10.0.0.1/24")
@example(text="10.0.0.0/24")
@example(text="255.255.255.255/32")
def test_a_canonical_network_is_what_the_library_makes_of_it(text):
    try:
        expected = str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        with pytest.raises(ValueError):
            canonical_network(text)
    else:
        assert canonical_network(text) == expected
