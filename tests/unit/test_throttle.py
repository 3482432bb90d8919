# SPDX-License-Identifier: MIT
"""The limits QEMU accepts, and what the buckets let through."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcore.qapi.names import QmpError
from blockcore.rules.throttle import NS_PER_S, Limit, ThrottleConfig, ThrottleState

BOTH = "bps/iops/max total values and read/write values cannot be used at the same time"
RANGE = "bps/iops/max values must be within [0, 1000000000000000]"
NO_AVG = "bps_max/iops_max require corresponding bps/iops values"
LOW_MAX = "bps_max/iops_max cannot be lower than bps/iops"

REFUSED = {
    "total and read": ({"bps_total": Limit(1), "bps_read": Limit(1)}, BOTH),
    "total and write max": (
        {"iops_total": Limit(5, 5), "iops_write": Limit(0, 5)},
        BOTH,
    ),
    "iops-size alone": (
        {"bps_total": Limit(5), "iops_size": 5},
        "iops size requires an iops value to be set",
    ),
    "iops-size before range": (
        {"bps_read": Limit(10**15 + 1), "iops_size": 3},
        "iops size requires an iops value to be set",
    ),
    "negative": ({"bps_total": Limit(-1)}, RANGE),
    "above": ({"bps_total": Limit(10**15 + 1)}, RANGE),
    "max above": ({"bps_total": Limit(5, 10**15 + 1)}, RANGE),
    "length 0": ({"bps_total": Limit(5, 4, 0)}, "the burst length cannot be 0"),
    "length without max": ({"bps_total": Limit(5, 0, 5)}, "burst length set without burst rate"),
    "length too high": (
        {"bps_total": Limit(5, 10**15, 1000)},
        "burst length too high for this burst rate",
    ),
    "max without avg": ({"bps_read": Limit(5), "bps_total": Limit(0, 9)}, NO_AVG),
    "max below avg": ({"bps_total": Limit(5, 4)}, LOW_MAX),
    "buckets in order": ({"iops_total": Limit(5, 2), "bps_read": Limit(0, 5)}, NO_AVG),
    "read before write": (
        {"bps_write": Limit(length=0), "bps_read": Limit(length=5)},
        "burst length set without burst rate",
    ),
}


@pytest.mark.parametrize(("members", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(members: dict[str, Limit], message: str) -> None:
    with pytest.raises(QmpError) as caught:
        ThrottleConfig(**members).validate()  # type: ignore[arg-type]
    assert caught.value.desc == message


@pytest.mark.parametrize(
    "config",
    [
        ThrottleConfig(),
        ThrottleConfig(bps_total=Limit(5, 6, 2**32)),
        ThrottleConfig(bps_read=Limit(5), bps_write=Limit(6), iops_total=Limit(7), iops_size=4096),
        ThrottleConfig(bps_total=Limit(10**15, 10**15)),
    ],
    ids=["nothing", "long burst", "directions", "largest"],
)
def test_accepted(config: ThrottleConfig) -> None:
    config.validate()


def test_enabled() -> None:
    assert not ThrottleConfig().enabled
    assert ThrottleConfig(iops_write=Limit(1)).enabled


def test_a_request_is_never_held_up_by_its_own_size() -> None:
    state = ThrottleState(ThrottleConfig(bps_total=Limit(1000)), 0)
    assert state.wait_ns(0, True) == 0
    state.account(0, True, 1100)
    assert state.wait_ns(0, True) == NS_PER_S  # (1100 - 100) / 1000
    assert state.wait_ns(NS_PER_S, True) == 0


def test_directions_are_apart_and_total_is_common() -> None:
    state = ThrottleState(ThrottleConfig(bps_read=Limit(1000), iops_total=Limit(10)), 0)
    state.account(0, False, 2000)
    assert state.wait_ns(0, True) == 0
    assert state.wait_ns(0, False) == 1_900_000_000
    state.account(0, True, 1)
    assert state.wait_ns(0, True) == 100_000_000


def test_a_large_request_counts_as_several() -> None:
    state = ThrottleState(ThrottleConfig(iops_total=Limit(10), iops_size=4096), 0)
    state.account(0, True, 4 * 4096)
    assert state.wait_ns(0, True) == 300_000_000
    state.account(0, True, 1)
    assert state.wait_ns(0, True) == 400_000_000


def test_burst_rate_without_length_is_one_second_of_it() -> None:
    state = ThrottleState(ThrottleConfig(iops_total=Limit(10, 50)), 0)
    for _ in range(51):
        assert state.wait_ns(0, True) == 0
        state.account(0, True, 1)
    assert state.wait_ns(0, True) == 100_000_000


def passed(config: ThrottleConfig, seconds: int, nbytes: int = 1) -> list[int]:
    """How many requests a greedy writer gets through in each second."""
    state = ThrottleState(config, 0)
    counts, now = [0] * seconds, 0
    while now < seconds * NS_PER_S:
        if wait := state.wait_ns(now, True):
            now += wait
            continue
        state.account(now, True, nbytes)
        counts[now // NS_PER_S] += 1
    return counts


def test_burst_lasts_its_length_at_its_rate_then_avg_rules() -> None:
    counts = passed(ThrottleConfig(iops_total=Limit(10, 100, 3)), 8)
    # the burst may begin with a tenth of a second's worth at once
    assert all(100 <= count <= 112 for count in counts[:3])
    assert all(count <= 11 for count in counts[5:])


@settings(max_examples=60, deadline=None)
@given(
    avg=st.integers(1, 10_000),
    sizes=st.lists(st.integers(1, 5_000), min_size=1, max_size=30),
    gaps=st.lists(st.integers(0, NS_PER_S), min_size=1, max_size=10),
    limits=st.sampled_from([(0, 1), (20_000, 1), (20_000, 5)]),
)
def test_never_faster_than_avg(
    avg: int, sizes: list[int], gaps: list[int], limits: tuple[int, int]
) -> None:
    limit = Limit(avg, *limits)
    state, now, total = ThrottleState(ThrottleConfig(bps_total=limit), 0), 0, 0
    for index in range(200):
        now += gaps[index % len(gaps)] if index % 7 == 0 else 0
        now += state.wait_ns(now, True)
        nbytes = sizes[index % len(sizes)]
        state.account(now, True, nbytes)
        total += nbytes
        capacity = limit.max * limit.length if limit.max else limit.avg / 10
        assert total <= avg * now / NS_PER_S + capacity + nbytes + 1


@settings(max_examples=40, deadline=None)
@given(avg=st.integers(1, 5000), size=st.integers(1, 5000))
def test_a_greedy_writer_gets_avg(avg: int, size: int) -> None:
    seconds = 5 * max(1, size // avg) + 5
    total = sum(passed(ThrottleConfig(bps_total=Limit(avg)), seconds, size)) * size
    assert total >= avg * seconds - size
