"""Rates, sizes, subnets and cores, as people write them and as hosts get them."""

from __future__ import annotations

import os
from collections import Counter
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsqz.errors import RequestError
from distsqz.lab.lab import LEAST_MEMORY, _deal_cores, parse_size
from distsqz.lab.rate import LEAST, MOST, format_rate, parse_rate
from distsqz.lab.state import DEFAULT_SUBNET, SUBNETS, free_subnet


@given(st.integers(LEAST, MOST))
def test_a_rate_is_read_as_it_is_written(bits_per_s: int) -> None:
    assert parse_rate(format_rate(bits_per_s)) == bits_per_s


@pytest.mark.parametrize(
    ("text", "bits_per_s"),
    [
        ("1gbit", 10**9),
        ("2.5gbit", 2_500_000_000),
        (" 100MBit ", 10**8),
        ("1000kbit", 10**6),
        ("123.4567mbit", 123_456_700),
    ],
)
def test_rates_as_people_write_them(text: str, bits_per_s: int) -> None:
    assert parse_rate(text) == bits_per_s


@pytest.mark.parametrize(
    "text",
    ["", "1", "gbit", "1gb", "-1gbit", "1e9bit", "1,5gbit", "nan", "²gbit", "9" * 400 + "gbit", "999kbit"],
)
def test_what_is_no_rate_is_refused_by_its_option(text: str) -> None:
    with pytest.raises(RequestError, match=r"^rate .*such as 1gbit; 1mbit at least, 30gbit at most$"):
        parse_rate(text)


@given(st.text(max_size=8) | st.from_regex(r"\d{1,400}(\.\d+)?(kbit|mbit|gbit|mib|gib)", fullmatch=True))
def test_whatever_is_written_is_a_figure_or_a_bad_request(text: str) -> None:
    for parse, least in ((parse_rate, LEAST), (parse_size, LEAST_MEMORY)):
        try:
            assert parse(text) >= least  # type: ignore[operator]
        except RequestError:
            continue


@pytest.mark.parametrize(
    ("text", "size"), [("256mib", 256 << 20), ("2gib", 2 << 30), ("1.5GiB", 3 << 29), ("1024MIB", 1 << 30)]
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "2", "2gb", "1tib", "-1gib", "255mib", "²gib", "9" * 400 + "gib"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"^memory .*such as 2gib; 256mib at least$"):
        parse_size(text)


def test_a_free_subnet_is_nobody_s_and_not_the_default_lab_s() -> None:
    first = free_subnet([])
    assert first.prefixlen == 24
    assert first.subnet_of(SUBNETS)
    assert not first.overlaps(DEFAULT_SUBNET)
    second = free_subnet([first])
    assert not second.overlaps(first)
    assert free_subnet([IPv4Network("198.18.0.0/16")]).subnet_of(IPv4Network("198.19.0.0/16"))


def test_no_free_subnet_is_said() -> None:
    with pytest.raises(RequestError, match=r"subnet: no /24 of 198\.18\.0\.0/15 is free"):
        free_subnet([SUBNETS])


@given(st.integers(1, 16), st.lists(st.integers(1, 16), min_size=1, max_size=8))
def test_cores_are_dealt_evenly(machine: int, wanted: list[int]) -> None:
    wanted = [min(cpus, machine) for cpus in wanted]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: set(range(machine)))
        dealt = _deal_cores(wanted)
    assert [len(set(cores)) for cores in dealt] == wanted
    loads = Counter(core for cores in dealt for core in cores)
    assert max(loads.values()) - min(loads.get(core, 0) for core in range(machine)) <= 1
