# SPDX-License-Identifier: MIT
"""Which request fails in which round, for tests whose requests are known."""

from __future__ import annotations

from typing import Any

import pytest

from blockcore.faults.kinds import KINDS
from faultline.every_io import NEVER, WORDS, Counts, EveryIo, Rounds, Target

Requests = dict[tuple[int, str], int]
"""How many requests each node of each machine gets in a round."""

WRITE = EveryIo.of("write", errno="ENOSPC")


def play(rounds: Rounds, requests: Requests) -> str:
    """Play one round; which request has failed, empty if none has."""
    failed = ""
    for machine, node in requests:
        rounds.machines = machine + 1
        for kind in range(len(rounds.kinds)):
            target = Target(machine, node, kind)
            rule = rounds.rule(target)
            rounds.armed(target)
            seen = requests[machine, node]
            hits = int(rule["after"] < seen)
            if hits:
                assert not failed and rule["count"] == 1
                failed = rounds.failing()
            # A machine is asked in the middle as well, by a command that ends it.
            rounds.counted(target, Counts(0, 0))
            rounds.counted(target, Counts(rule["after"] + 1 if hits else seen, hits))
    return failed


def played(rounds: Rounds, *each: Requests) -> list[str]:
    """Play rounds until they are over; the last of `each` stands for all further ones."""
    failed: list[str] = []
    while True:
        failed.append(play(rounds, each[min(len(failed), len(each) - 1)]))
        if rounds.over():
            return failed


def test_each_request_fails_once() -> None:
    assert played(Rounds([WRITE]), {(0, "vda"): 3}) == [
        "with the 1st write failing",
        "with the 2nd write failing",
        "with the 3rd write failing",
        "",
    ]


def test_of_each_drive_and_machine() -> None:
    requests = {(0, "vda"): 0, (0, "vdb"): 1, (1, "vda"): 2}
    assert played(Rounds([WRITE]), requests) == [
        "",
        "with the 1st write of vdb failing",
        "",
        "with the 1st write of vda of machine 2 failing",
        "with the 2nd write of vda of machine 2 failing",
        "",
    ]


def test_of_each_kind() -> None:
    kinds = [WRITE, EveryIo.of("read", offset=512)]
    rounds = Rounds(kinds)
    assert rounds.rule(Target(0, "vda", 0)) == {
        **{"iotype": "write", "errno": "ENOSPC", "after": 0, "count": 1},
    }
    rounds.armed(Target(0, "vda", 0))
    assert rounds.rule(Target(0, "vda", 1)) == {
        **{"iotype": "read", "offset": 512, "after": NEVER},
    }
    assert played(Rounds(kinds), {(0, "vda"): 1}) == [
        "with the 1st write failing",
        "",
        "with the 1st read of vda failing",
        "",
    ]


def test_a_test_that_does_less_from_time_to_time() -> None:
    """A machine that is not there any more, or has fewer requests, has no further turn."""
    both: Requests = {(0, "vda"): 2, (1, "vda"): 1}
    assert played(Rounds([WRITE]), both, {(0, "vda"): 0}) == ["with the 1st write failing", ""]
    assert played(Rounds([WRITE]), both, {(1, "vda"): 1}) == [
        "with the 1st write failing",
        "",
        "with the 1st write of machine 2 failing",
        "",
    ]


def test_in_vain() -> None:
    rounds = Rounds([WRITE])
    with pytest.raises(ValueError, match="the test has no machine from faultline_machine"):
        rounds.over()
    rounds.machines = 1
    with pytest.raises(ValueError, match="no machine has a drive or node None"):
        rounds.over()
    play(rounds, {(0, "vda"): 0})
    with pytest.raises(ValueError, match="^no write was made: every_io needs a test that"):
        rounds.over()


def test_the_limit() -> None:
    rounds = Rounds([EveryIo.of("write", limit=3)])
    with pytest.raises(ValueError, match="^the test is not over after 3 rounds, the limit"):
        played(rounds, {(0, "vda"): 3})
    assert rounds.number == 3
    assert len(played(Rounds([EveryIo.of("write", limit=4)]), {(0, "vda"): 3})) == 4


def test_a_machine_that_could_not_be_asked() -> None:
    rounds = Rounds([WRITE])
    rounds.machines = 2
    for machine in range(2):
        rounds.armed(Target(machine, "vda", 0))
    rounds.counted(Target(0, "vda", 0), Counts(5, 1))
    with pytest.raises(ValueError, match=r"^machine 2 ended before .* \(with the 1st write of"):
        rounds.over()


def test_arguments() -> None:
    assert EveryIo.of("read", node="vda", count_of="x").members == {"count_of": "x"}
    for name in ("count", "after", "every", "once", "rate", "id"):
        members: dict[str, Any] = {name: 1}
        with pytest.raises(TypeError, match=f"every_io takes no {name}"):
            EveryIo.of("read", **members)
    with pytest.raises(TypeError, match="every_io needs a kind of request, such as 'write', or"):
        EveryIo.of(errno="EIO")


def test_any_kind_of_fault() -> None:
    rounds = Rounds([EveryIo.of(["read", "write"], action="delay", delay_ms=5)])
    assert rounds.rule(Target(0, "vda", 0)) == {
        **{"iotype": ["read", "write"], "action": "delay", "delay_ms": 5},
        **{"after": 0, "count": 1},
    }
    assert played(rounds, {(0, "vda"): 1}) == ["with the 1st read or write delayed", ""]
    rounds = Rounds([EveryIo.of(action="torn", errno=0)])
    assert played(rounds, {(0, "vda"): 1, (0, "vdb"): 1}) == [
        "with the 1st request torn",
        "",
        "with the 1st request of vdb torn",
        "",
    ]


def test_all_kinds_have_a_word() -> None:
    """But for the one that is about no request."""
    assert WORDS.keys() == KINDS.keys() - {"set-state"}
