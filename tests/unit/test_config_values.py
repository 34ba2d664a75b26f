"""Texts of single values, as Go reads them."""

from __future__ import annotations

import ipaddress
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_router.config.duration import format_duration, parse_duration
from kube_router.config.flags import Flag, Kind
from kube_router.config.values import BadValue, parse_value

NS, US, MS, S, M, H = 1, 10**3, 10**6, 10**9, 60 * 10**9, 3600 * 10**9
LONGEST = 2**63 - 1


def value(kind: Kind, text: str) -> object:
    return parse_value(Flag("some-flag", kind, None, ("core",), "Some."), text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0), ("-0", 0), ("+0", 0), ("0s", 0), ("5s", 5 * S), ("30s", 30 * S), ("1478s", 1478 * S),
        ("-5s", -5 * S), ("+5s", 5 * S), ("5.0s", 5 * S), ("5.6s", 5600 * MS), ("5.s", 5 * S), (".5s", 500 * MS),
        ("1.0s", S), ("1.004s", 1004 * MS), ("100.00100s", 100001 * MS), ("10ns", 10), ("11us", 11 * US),
        ("12\u00b5s", 12 * US), ("12\u03bcs", 12 * US), ("13ms", 13 * MS), ("14s", 14 * S), ("15m", 15 * M),
        ("16h", 16 * H), ("3h30m", 3 * H + 30 * M), ("10.5s4m", 4 * M + 10500 * MS), ("-2m3.4s", -(2 * M + 3400 * MS)),
        ("1h2m3s4ms5us6ns", H + 2 * M + 3 * S + 4 * MS + 5 * US + 6), ("39h9m14.425s", 39 * H + 9 * M + 14425 * MS),
        ("2h22m", 2 * H + 22 * M), ("1.5h", 90 * M), ("0.3333333333333333333h", 1199999999999),
        ("9223372036854775807ns", LONGEST), ("-9223372036854775808ns", -LONGEST - 1), ("0.1ns", 0),
    ],
)  # fmt: skip
def test_a_go_duration_is_read(text: str, expected: int) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a duration"), ("x", "not a duration"), ("-", "not a duration"), ("+", "not a duration"),
        (".", "not a duration"), ("-.", "not a duration"), (".s", "not a duration"), ("+.s", "not a duration"),
        ("3", "without a unit"), ("-3", "without a unit"), ("3.5", "without a unit"), ("1m3", "without a unit"),
        ("1d", "unknown unit"), ("1 s", "unknown unit"), ("1m 3s", "unknown unit"), ("1S", "unknown unit"),
        (" 1s", "not a duration"), ("1s ", "unknown unit"), ("--1s", "not a duration"), ("1m-3s", "unknown unit"),
        ("\u0661s", "not a duration"), ("1e3s", "unknown unit"),
        ("9223372036854775808ns", "too long"), ("-9223372036854775809ns", "too long"), ("3000000h", "too long"),
        ("99999999999999999999h", "too long"),
    ],
)  # fmt: skip
def test_what_is_no_go_duration_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_duration(text)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"), (1, "1ns"), (1100, "1.1\u00b5s"), (2200 * US, "2.2ms"), (3300 * MS, "3.3s"), (S, "1s"),
        (90 * S, "1m30s"), (5 * M, "5m0s"), (4 * M + 5001 * MS, "4m5.001s"), (H, "1h0m0s"), (18 * H, "18h0m0s"),
        (5 * H + 6 * M + 7001 * MS, "5h6m7.001s"), (8 * M + 1, "8m0.000000001s"), (-M, "-1m0s"),
        (LONGEST, "2562047h47m16.854775807s"), (-LONGEST - 1, "-2562047h47m16.854775808s"),
    ],
)  # fmt: skip
def test_a_duration_is_written_as_go_writes_it(nanoseconds: int, text: str) -> None:
    assert format_duration(nanoseconds) == text


@given(st.integers(-LONGEST - 1, LONGEST))
def test_a_duration_written_and_read_is_the_same(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@given(st.text(alphabet="0123456789.+-hmsnuµ ", max_size=12))
def test_whatever_is_read_as_a_duration_has_one_canonical_text(text: str) -> None:
    try:
        read = parse_duration(text)
    except ValueError:
        return
    assert format_duration(parse_duration(format_duration(read))) == format_duration(read)


def test_a_duration_is_given_in_seconds() -> None:
    assert value("duration", "1m30.5s") == 90.5


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_go_words_for_true(text: str) -> None:
    assert value("bool", text) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_go_words_for_false(text: str) -> None:
    assert value("bool", text) is False


@pytest.mark.parametrize("text", ["", "yes", "no", "tRUE", "on", " true", "2"])
def test_other_words_are_no_booleans(text: str) -> None:
    with pytest.raises(BadValue, match="not true or false"):
        value("bool", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0), ("42", 42), ("0x2a", 42), ("0X2A", 42), ("0b101010", 42), ("0o52", 42), ("052", 42), ("00", 0),
        ("1_000", 1000), ("0x_ff", 255), ("0_52", 42), ("4294967295", 4294967295),
    ],
)  # fmt: skip
def test_an_unsigned_number_is_read_in_the_base_it_shows(text: str, expected: int) -> None:
    assert value("uint32", text) == expected


@pytest.mark.parametrize("text", ["", "x", "-1", "+1", " 1", "1 ", "1.0", "08", "0x", "0b2", "_1", "1_", "1__0", "1e3", "\u0661"])
def test_what_is_no_unsigned_number_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="not a whole number"):
        value("uint32", text)


@pytest.mark.parametrize(("kind", "bits"), [("uint8", 8), ("uint16", 16), ("uint32", 32), ("uint", 64)])
def test_an_unsigned_number_must_fit_its_bits(kind: Kind, bits: int) -> None:
    assert value(kind, str(2**bits - 1)) == 2**bits - 1
    with pytest.raises(BadValue, match=f"does not fit into {bits} bits"):
        value(kind, str(2**bits))
    with pytest.raises(BadValue, match="does not fit"):
        value(kind, "9" * 100_000)


@given(st.integers(0, 2**64 - 1), st.sampled_from(["{}", "{:#x}", "{:#o}", "{:#b}"]))
def test_a_number_is_the_same_in_every_base(number: int, form: str) -> None:
    assert value("uint", form.format(number)) == number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()), ("a", ("a",)), ("a,b", ("a", "b")), ("a,,b", ("a", "", "b")), (",", ("", "")), (" a , b ", (" a ", " b ")),
        ('"a,b",c', ("a,b", "c")), ('"a""b"', ('a"b',)), ('""', ("",)), ('"a\nb"', ("a\nb",)), ("a,b\n", ("a", "b")),
        ("a,b\r\n", ("a", "b")),
    ],
)  # fmt: skip
def test_a_list_of_strings_is_one_csv_record(text: str, expected: tuple[str, ...]) -> None:
    assert value("strings", text) == expected


@pytest.mark.parametrize("text", ['"a', 'a"b', 'a"', '"a"b', '"a" ,b', ' "a"', 'a,"b'])
def test_a_stray_double_quote_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="double quote"):
        value("strings", text)


def test_a_list_that_goes_on_after_a_line_break_is_refused_rather_than_cut() -> None:
    with pytest.raises(BadValue, match="line break"):
        value("strings", "a,b\nc")


@given(st.lists(st.text(alphabet=string.printable, max_size=8), min_size=1, max_size=5))
def test_any_strings_can_be_given_as_one_quoted_list(items: list[str]) -> None:
    text = ",".join('"' + item.replace('"', '""') + '"' for item in items)
    assert value("strings", text) == tuple(items)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()), ("10.0.0.1", ("10.0.0.1",)), ("10.0.0.1, 10.0.0.2", ("10.0.0.1", "10.0.0.2")),
        ('"10.0.0.1","10.0.0.2"', ("10.0.0.1", "10.0.0.2")), ("'10.0.0.1'", ("10.0.0.1",)), ("`::1`", ("::1",)),
        ("2001:DB8:0::1", ("2001:db8::1",)), ("::ffff:10.0.0.1", ("10.0.0.1",)),
    ],
)  # fmt: skip
def test_a_list_of_addresses_is_read_without_quotes_and_blanks_and_made_canonical(text: str, expected: tuple[str, ...]) -> None:
    assert value("ipSlice", text) == expected


@pytest.mark.parametrize("text", ["x", "10.0.0.1,", ",", "10.0.0.256", "10.0.0.01", "10.0.0.0/24", "fe80::1%eth0", "10.1"])
def test_a_list_with_something_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="address"):
        value("ipSlice", text)


@given(st.lists(st.ip_addresses(), min_size=1, max_size=4))
def test_addresses_come_out_canonical(addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> None:
    expected = tuple(str(getattr(address, "ipv4_mapped", None) or address) for address in addresses)
    assert value("ipSlice", ",".join(address.exploded for address in addresses)) == expected


@pytest.mark.parametrize(("text", "expected"), [("1", (1,)), ("1,2", (1, 2)), ("007", (7,))])
def test_a_list_of_numbers_is_decimal(text: str, expected: tuple[int, ...]) -> None:
    assert value("uints", text) == expected


@pytest.mark.parametrize("text", ["", "1,", "1, 2", "0x1", "-1", "1_0", "a"])
def test_a_list_with_something_that_is_no_decimal_number_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="not a list of numbers"):
        value("uints", text)


def test_a_number_of_a_list_must_fit_64_bits() -> None:
    assert value("uints", str(2**64 - 1)) == (2**64 - 1,)
    with pytest.raises(BadValue, match="64 bits"):
        value("uints", f"1,{2**64}")
