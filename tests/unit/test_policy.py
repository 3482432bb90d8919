# SPDX-License-Identifier: MIT
"""Error policies, all of them, written out."""

from __future__ import annotations

import errno

import pytest

from blockcore.bql.clock import NS_OF_MS
from blockcore.qapi.names import (
    BlockDeviceIoStatus,
    BlockdevOnError,
    BlockErrorAction,
    DeviceErrorAction,
    DeviceOnError,
    QmpError,
    UInt32,
)
from blockcore.rules.policy import (
    Retry,
    device_action,
    error_action,
    iostatus_after,
    iostatus_enabled,
    parse_rerror,
    parse_werror,
)

NUMBERS = {
    "ENOSPC": errno.ENOSPC,
    "EIO": errno.EIO,
    "EDQUOT": errno.EDQUOT,
    "ENOMEM": errno.ENOMEM,
    "EPERM": errno.EPERM,
    "ETIMEDOUT": errno.ETIMEDOUT,
    "ENOTSUP": errno.ENOTSUP,
}

ACTIONS = {
    # policy: on ENOSPC, on anything else
    "report": ("report", "report"),
    "ignore": ("ignore", "ignore"),
    "stop": ("stop", "stop"),
    "enospc": ("stop", "report"),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("policy", ACTIONS)
def test_action(policy: str, name: str) -> None:
    on_enospc, otherwise = ACTIONS[policy]
    wanted = BlockErrorAction(on_enospc if name == "ENOSPC" else otherwise)
    assert error_action(BlockdevOnError(policy), NUMBERS[name]) is wanted


def test_auto_is_resolved_before() -> None:
    with pytest.raises(AssertionError):
        error_action(BlockdevOnError.AUTO, errno.EIO)
    assert set(BlockdevOnError) == {BlockdevOnError(policy) for policy in (*ACTIONS, "auto")}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("may_retry", [False, True])
@pytest.mark.parametrize("policy", [*ACTIONS, "retry"])
def test_action_of_a_drive(policy: str, may_retry: bool, name: str) -> None:
    """QEMU's policies do what they do in QEMU; a retry that comes too late is a report."""
    if policy == "retry":
        wanted = "retry" if may_retry else "report"
    else:
        wanted = error_action(BlockdevOnError(policy), NUMBERS[name])
    got = device_action(DeviceOnError(policy), NUMBERS[name], may_retry)
    assert got is DeviceErrorAction(wanted)


def test_drives_have_one_policy_more_than_jobs() -> None:
    assert set(DeviceOnError) - set(BlockdevOnError) == {DeviceOnError.RETRY}
    assert set(BlockdevOnError) < set(DeviceOnError)
    assert set(DeviceErrorAction) - set(BlockErrorAction) == {DeviceErrorAction.RETRY}


NEXT_TRY_MS: dict[tuple[int, int, int, int], int | None] = {
    # interval, timeout, first failure, this failure: next try
    (1000, 0, 50, 50): 1050,
    (1000, 0, 50, 10**9): 10**9 + 1000,
    (1, 0, 50, 50): 51,
    (1000, 5000, 50, 50): 1050,
    (1000, 5000, 50, 4049): 5049,
    (1000, 5000, 50, 4050): 5050,
    # The last try is at the timeout, also where that is no multiple of the interval.
    (1000, 5000, 50, 4051): 5050,
    (1000, 5000, 50, 5049): 5050,
    (1000, 1500, 0, 1000): 1500,
    (60_000, 10, 0, 0): 10,
    (1000, 5000, 50, 5050): None,
    (1000, 5000, 50, 10**9): None,
    (2**32 - 1, 2**32 - 1, 0, 0): 2**32 - 1,
}


@pytest.mark.parametrize(("interval", "timeout", "first", "now"), NEXT_TRY_MS)
def test_next_try(interval: int, timeout: int, first: int, now: int) -> None:
    retry = Retry(interval_ms=UInt32(interval), timeout_ms=UInt32(timeout))
    wanted = NEXT_TRY_MS[interval, timeout, first, now]
    got = retry.next_try_ns(first * NS_OF_MS, now * NS_OF_MS)
    assert got == (None if wanted is None else wanted * NS_OF_MS)


def test_an_interval_is_not_zero() -> None:
    Retry(interval_ms=UInt32(1)).check()
    with pytest.raises(QmpError, match="^Parameter 'retry-interval' expects at least 1 milli"):
        Retry(interval_ms=UInt32(0)).check()


ENABLED = {
    # rerror: werror=ignore, report, retry, stop, enospc
    "ignore": (False, False, False, True, True),
    "report": (False, False, False, True, True),
    "retry": (False, False, False, True, True),
    "stop": (True, True, True, True, True),
    "enospc": (True, True, True, True, True),
}


@pytest.mark.parametrize("rerror", ENABLED)
def test_iostatus_is_enabled_iff_something_stops(rerror: str) -> None:
    werrors = map(DeviceOnError, ("ignore", "report", "retry", "stop", "enospc"))
    got = tuple(iostatus_enabled(DeviceOnError(rerror), werror) for werror in werrors)
    assert got == ENABLED[rerror]


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("werror", [*ACTIONS, "retry"])
@pytest.mark.parametrize("rerror", [*ACTIONS, "retry"])
def test_what_stops_has_an_iostatus(rerror: str, werror: str, number: int) -> None:
    """QEMU aborts where this does not hold (semantics 1.1)."""
    policies = DeviceOnError(rerror), DeviceOnError(werror)
    actions = [device_action(policy, number, may_retry=True) for policy in policies]
    if DeviceErrorAction.STOP in actions:
        assert iostatus_enabled(*policies)


STATUS = {
    # (before, errno): after
    ("ok", "ENOSPC"): "nospace",
    ("ok", "EIO"): "failed",
    ("ok", "EDQUOT"): "failed",
    ("failed", "ENOSPC"): "failed",
    ("failed", "EIO"): "failed",
    ("nospace", "ENOSPC"): "nospace",
    ("nospace", "EIO"): "nospace",
}


@pytest.mark.parametrize(("before", "name"), STATUS)
def test_the_first_error_is_kept(before: str, name: str) -> None:
    after = iostatus_after(BlockDeviceIoStatus(before), NUMBERS[name])
    assert after is BlockDeviceIoStatus(STATUS[before, name])


@pytest.mark.parametrize(
    "text", ["ignore", "report", "stop", "enospc", "retry", "auto", "bogus", ""]
)
def test_parsing(text: str) -> None:
    """Recorded: cli-errors; `retry` is not QEMU's."""
    if text in ("ignore", "report", "stop", "retry"):
        assert parse_rerror(text) is DeviceOnError(text)
    else:
        with pytest.raises(QmpError, match=f"^'{text}' invalid read error action$"):
            parse_rerror(text)
    if text in ("ignore", "report", "stop", "enospc", "retry"):
        assert parse_werror(text) is DeviceOnError(text)
    else:
        with pytest.raises(QmpError, match=f"^'{text}' invalid write error action$"):
            parse_werror(text)
