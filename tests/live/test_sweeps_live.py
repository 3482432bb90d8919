# SPDX-License-Identifier: MIT
"""Sweeps of the client library, with a guest that reads and writes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import nbd
import pytest

import faultline.aio
from faultline import Drive, FaultlineError, Machine

BLOCK = 4096


@pytest.fixture(scope="module", name="m")
def _machine() -> Iterator[Machine]:
    with Machine(Drive(size="1M", werror="report", rerror="report")) as machine:
        yield machine


@pytest.fixture(autouse=True)
def no_rules(m: Machine) -> Iterator[None]:
    yield
    assert m.x_query_faults() == []


def writes(m: Machine, *values: bytes) -> list[bool]:
    """Write a block of each value, one behind the other; return which writes succeed."""
    guest = nbd.NBD()
    guest.connect_uri(m.uri)
    done = []
    for at, value in enumerate(values):
        try:
            guest.pwrite(value * BLOCK, at * BLOCK)
            done.append(True)
        except nbd.Error:
            done.append(False)
    guest.shutdown()
    return done


def contents(m: Machine, blocks: int) -> bytes:
    guest = nbd.NBD()
    guest.connect_uri(m.uri)
    data = bytes(guest.pread(blocks * BLOCK, 0))
    guest.shutdown()
    return data


def test_each_write_fails_in_its_round(m: Machine) -> None:
    found = []
    for hit in m.sweep("vda", iotype="write", errno="ENOSPC"):
        done = writes(m, b"1", b"2", b"3")
        found.append((hit.nth, done, hit.fired()))
    assert found == [
        (1, [False, True, True], True),
        (2, [True, False, True], True),
        (3, [True, True, False], True),
        (4, [True, True, True], False),
    ]


def test_what_is_lost_is_another_write_in_each_round(m: Machine) -> None:
    rounds = 0
    for hit in m.sweep("vda", action="drop"):
        m.fault("vda", iotype="flush", action="drop").remove()
        before = contents(m, 3)
        assert all(writes(m, *(bytes([hit.nth * 16 + at]) for at in range(3))))
        after = contents(m, 3)
        same = [at for at in range(3) if after[at * BLOCK] == before[at * BLOCK]]
        assert same == ([hit.nth - 1] if hit.fired() else [])
        rounds += 1
    assert rounds == 4


def test_a_loop_that_is_left_in_a_block_leaves_nothing(m: Machine) -> None:
    with pytest.raises(ZeroDivisionError) as failed, m.sweep("vda", iotype="write") as sweep:
        for hit in sweep:
            writes(m, b"1")
            if hit.nth == 2:
                raise ZeroDivisionError
    assert failed.value.__notes__ == ["with the 2nd write failing"]


def test_the_limit(m: Machine) -> None:
    with pytest.raises(FaultlineError, match="^the sweep is not over after 2 rounds, its limit"):
        for _ in m.sweep("vda", iotype="write", limit=2):
            writes(m, b"1", b"2", b"3")


def test_nothing_that_another_rule_leaves(m: Machine) -> None:
    first = m.fault("vda", iotype="write", id="first")
    told = "^no write came to vda, which the rule 'first' did not hit: there is nothing to sweep"
    with pytest.raises(FaultlineError, match=told):
        for _ in m.sweep("vda", iotype="write"):
            assert writes(m, b"1") == [False]
    first.remove()


def test_nothing_to_sweep(m: Machine) -> None:
    with pytest.raises(FaultlineError, match="^no discard came to vda: there is nothing to sweep"):
        for _ in m.sweep("vda", iotype="discard"):
            writes(m, b"1")


def test_with_asyncio(m: Machine) -> None:
    async def run() -> list[bool]:
        fired = []
        async with faultline.aio.Machine.connect(m.control) as other:
            async for hit in other.sweep("vda", iotype="write"):
                await asyncio.to_thread(writes, m, b"1", b"2")
                fired.append(await hit.fired())
        return fired

    assert asyncio.run(run()) == [True, True, False]
