# SPDX-License-Identifier: MIT
"""Error policies, all of them, written out."""

from __future__ import annotations

import errno

import pytest

from blockcore.qapi.names import BlockDeviceIoStatus, BlockdevOnError, BlockErrorAction, QmpError
from blockcore.rules.policy import (
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


ENABLED = {
    # rerror: werror=ignore, report, stop, enospc
    "ignore": (False, False, True, True),
    "report": (False, False, True, True),
    "stop": (True, True, True, True),
    "enospc": (True, True, True, True),
}


@pytest.mark.parametrize("rerror", ENABLED)
def test_iostatus_is_enabled_iff_something_stops(rerror: str) -> None:
    werrors = (BlockdevOnError(name) for name in ("ignore", "report", "stop", "enospc"))
    got = tuple(iostatus_enabled(BlockdevOnError(rerror), werror) for werror in werrors)
    assert got == ENABLED[rerror]


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("werror", ACTIONS)
@pytest.mark.parametrize("rerror", ACTIONS)
def test_what_stops_has_an_iostatus(rerror: str, werror: str, number: int) -> None:
    """QEMU aborts where this does not hold (semantics 1.1)."""
    policies = BlockdevOnError(rerror), BlockdevOnError(werror)
    if BlockErrorAction.STOP in [error_action(policy, number) for policy in policies]:
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


@pytest.mark.parametrize("text", ["ignore", "report", "stop", "enospc", "auto", "bogus", ""])
def test_parsing(text: str) -> None:
    """Recorded: cli-errors."""
    if text in ("ignore", "report", "stop"):
        assert parse_rerror(text) is BlockdevOnError(text)
    else:
        with pytest.raises(QmpError, match=f"^'{text}' invalid read error action$"):
            parse_rerror(text)
    if text in ("ignore", "report", "stop", "enospc"):
        assert parse_werror(text) is BlockdevOnError(text)
    else:
        with pytest.raises(QmpError, match=f"^'{text}' invalid write error action$"):
            parse_werror(text)
