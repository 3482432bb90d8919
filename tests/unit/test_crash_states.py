# SPDX-License-Identifier: MIT
"""The log of a volatile cache and its crash states, beside an independent model."""

from __future__ import annotations

from random import Random

import pytest

from blockcore.faults.dice import Dice
from blockcore.qapi.names import QmpError
from blockcore.rules.crash_enumeration import enumerated
from blockcore.rules.crash_states import CrashKeep, CrashState, chosen, state_named
from blockcore.rules.write_log import WriteLog
from crash_model import SECTOR, CrashModel

MANY = 1 << 16


class Disk:
    """A medium under a log, beside the model of both."""

    def __init__(self, sectors: int) -> None:
        self.log = WriteLog()
        self.model = CrashModel(sectors)
        self.medium = bytearray(sectors * SECTOR)

    def write(self, offset: int, data: bytes, *, fua: bool = False) -> None:
        self.model.write(offset, data, fua=fua)
        if any(data):
            self.log.write(offset, data)
        else:
            self.log.zero(offset, len(data), unmap=True)
        if fua:
            self.settle(offset, offset + len(data))

    def settle(self, start: int, end: int) -> None:
        """Bring what reads see of a range to the medium."""
        for piece in self.log.newest.within(start, end):
            self.medium[piece.start : piece.end] = piece.data or bytes(piece.end - piece.start)
        self.log.settled(self.log.last, start, end)

    def flush(self) -> None:
        self.model.flush()
        self.settle(0, len(self.medium))

    def evict(self) -> None:
        """Write the oldest write back, as a cache does that is full."""
        oldest = self.log.oldest()
        for piece in oldest.pieces():
            self.medium[piece.start : piece.end] = piece.data or bytes(piece.end - piece.start)
        self.log.written(oldest.number)

    def read(self) -> bytes:
        disk = bytearray(self.medium)
        for piece in self.log.newest:
            disk[piece.start : piece.end] = piece.data or bytes(piece.end - piece.start)
        return bytes(disk)

    def after(self, state: CrashState) -> bytes:
        disk = bytearray(self.medium)
        for piece in state.pieces(self.log):
            disk[piece.start : piece.end] = piece.data or bytes(piece.end - piece.start)
        return bytes(disk)


def work(seed: int, sectors: int, steps: int, *, whole: bool) -> Disk:
    """Return a disk after random writes, some with FUA, some of zeroes, flushes and evictions."""
    random, disk = Random(seed), Disk(sectors)
    for step in range(steps):
        kind = random.random()
        if kind < 0.08:
            disk.flush()
        elif kind < 0.12 and len(disk.log):
            disk.evict()
        else:
            unit = SECTOR if whole or random.random() < 0.6 else 128
            units = sectors * SECTOR // unit
            first = random.randrange(units)
            length = unit * random.randint(1, min(units - first, 3 * SECTOR // unit))
            octet = 0 if random.random() < 0.2 else 1 + step % 255
            disk.write(first * unit, bytes([octet]) * length, fua=kind > 0.85)
        assert disk.read() == b"".join(disk.model.now)
    return disk


@pytest.mark.parametrize("whole", [True, False])
def test_all_states_of_few_writes_are_those_of_the_model(whole: bool) -> None:
    complete = 0
    for seed in range(48):
        disk = work(seed, sectors=4, steps=1 + seed % 9, whole=whole)
        states = enumerated(disk.log, MANY, torn=True)
        found = {disk.after(state) for state in states}
        # An eviction leaves fewer states than the model has: the oldest write is there.
        assert all(map(disk.model.allows, found))
        if disk.model.all_disks() == found:
            complete += 1
            assert len(states) == len({state.name for state in states})
    assert complete > 28


@pytest.mark.parametrize("seed", range(10))
def test_without_evictions_nothing_that_is_allowed_is_left_out(seed: int) -> None:
    random, disk = Random(seed), Disk(3)
    for octet in range(1, 7):
        first = random.randrange(3)
        length = random.randint(1, 3 - first)
        disk.write(first * SECTOR, bytes([octet]) * length * SECTOR, fua=random.random() < 0.2)
        if random.random() < 0.15:
            disk.flush()
        found = [disk.after(state) for state in enumerated(disk.log, MANY, torn=True)]
        assert set(found) == disk.model.all_disks()
        assert len(found) == len(set(found))


@pytest.mark.parametrize("keep", list(CrashKeep))
@pytest.mark.parametrize("torn", [False, True])
def test_chosen_states_are_allowed_and_repeat(keep: CrashKeep, torn: bool) -> None:
    if torn and keep in (CrashKeep.NONE, CrashKeep.ALL):
        return
    for seed in range(10):
        disk = work(seed, sectors=32, steps=50, whole=bool(seed % 2))
        state = chosen(disk.log, keep, torn=torn, dice=Dice(seed))
        assert state == chosen(disk.log, keep, torn=torn, dice=Dice(seed))
        assert disk.model.allows(disk.after(state))
        if keep is CrashKeep.ALL:
            assert disk.after(state) == disk.read()
        if keep is CrashKeep.NONE:
            assert disk.after(state) == disk.medium
        assert sum(state.counts(disk.log)) == len(disk.log)


def test_every_kind_is_chosen() -> None:
    log = WriteLog()
    for at in range(8):
        log.write(at * 4096, bytes([at + 1]) * 4096)
    random = {chosen(log, CrashKeep.RANDOM, torn=True, dice=Dice(n)).name for n in range(200)}
    assert len(random) > 150
    assert any("." in name for name in random)
    prefixes = {chosen(log, CrashKeep.PREFIX, torn=False, dice=Dice(n)).name for n in range(200)}
    assert prefixes == {
        "1-8:none", "1-8:1", *(f"1-8:1-{n}" for n in range(2, 8)), "1-8:all"
    }  # fmt: skip


@pytest.mark.parametrize("torn", [False, True])
def test_names_name_their_states(torn: bool) -> None:
    for seed in range(6):
        disk = work(seed, sectors=24, steps=40, whole=bool(seed % 2))
        for state in enumerated(disk.log, 200, torn=torn):
            assert state_named(state.name, disk.log) == state
            assert disk.model.allows(disk.after(state))
            assert torn or not state.torn


def test_a_sample_has_every_kind() -> None:
    log = WriteLog()
    for at in range(20):
        log.write(at * 2048, bytes([at + 1]) * 2048)
    states = enumerated(log, 1000, torn=True)
    assert len(states) == 1000
    names = {state.name for state in states}
    assert len(names) == 1000
    for number in range(1, 21):
        assert f"1-20:{number}" in names  # alone
        others = set(range(1, 21)) - {number}
        kept = [
            {n for low, high in state.whole for n in range(low, high + 1)}
            for state in states
            if not state.torn
        ]
        assert others in kept
        assert set(range(1, number + 1)) in kept
        for cut in range(1, 4):
            before = {1: "", 2: "1+"}.get(number, f"1-{number - 1}+")
            sectors = "0" if cut == 1 else f"0-{cut - 1}"
            assert f"1-20:{before}{number}.{sectors}" in names


def test_a_small_limit_has_of_every_kind() -> None:
    log = WriteLog()
    for at in range(50):
        log.write(at * 65536, bytes([at + 1]) * 65536)
    states = enumerated(log, 40, torn=True)
    assert 30 < len(states) <= 40
    assert {"1-50:none", "1-50:all"} <= {state.name for state in states}
    assert any(state.torn for state in states)
    assert len({state.torn[0][0] for state in states if state.torn}) > 5


def test_zeroes_of_a_whole_disk_cost_nothing() -> None:
    log = WriteLog()
    log.zero(0, 1 << 44, unmap=True)
    log.write(512, b"x" * 512)
    assert len(enumerated(log, 100, torn=True)) > 50
    assert log.cost < 2048


def test_an_empty_log_has_one_state() -> None:
    log = WriteLog()
    assert [state.name for state in enumerated(log, 10, torn=True)] == ["1-0:none"]
    assert state_named("none", log) == state_named("all", log) == CrashState(1, 0)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "Parameter 'state' expects"),
        ("1:all", "Parameter 'state' expects"),
        ("-:all", "Parameter 'state' expects"),
        ("1-3:some", "Parameter 'state' expects"),
        ("1-3:1+", "Parameter 'state' expects"),
        ("1-3:1.", "Parameter 'state' expects"),
        ("1-3:1-2.1", "Parameter 'state' expects"),
        ("1-3:-1", "Parameter 'state' expects"),
        ("1-3:\u0661", "Parameter 'state' expects"),
        ("1-3:4", "has 4, which is not in 1-3"),
        ("1-3:2-1", "has 2-1, which is not in 1-3"),
        ("1-3:1.8", "has sectors that write 1 has not"),
        ("1-3:1.3-2", "has sectors that write 1 has not"),
        ("2-3:none", "is of other writes than the cache has now, 1-3"),
        ("1-4:none", "is of other writes than the cache has now, 1-3"),
        ("1+2", "does not say which writes the cache has"),
    ],
)
def test_wrong_names_are_refused(name: str, told: str) -> None:
    log = WriteLog()
    for at in range(3):
        log.write(at * 4096, b"x" * 4096)
    with pytest.raises(QmpError) as failed:
        state_named(name, log)
    assert told in failed.value.desc


def test_a_state_of_earlier_writes_loses_the_later_ones() -> None:
    log = WriteLog()
    log.write(0, b"a" * 512)
    state = state_named("1-1:all", log)
    log.write(0, b"b" * 512)
    assert [bytes(piece.data or b"")[:1] for piece in state.pieces(log)] == [b"a"]
    assert state.counts(log) == (1, 1, 0)


def test_later_writes_stay_when_earlier_ones_are_settled() -> None:
    log = WriteLog()
    log.write(0, b"a" * 1024)
    number = log.last
    log.write(512, b"b" * 1024)
    log.settled(number, 0, 4096)
    assert log.numbers == [2]
    assert [piece[:2] for piece in log.oldest().pieces()] == [(512, 1536)]
    assert [piece[:2] for piece in log.newest] == [(512, 1536)]


@pytest.mark.parametrize(
    ("name", "gone", "left"),
    [
        ("1-3:all", [(0, 512)], "1-3:1.1-7+2-3"),
        ("1-3:all", [(4608, 4609), (8192, 12288)], "1-3:1+2.0.2-7"),
        ("1-3:1+2.0-2", [(4096, 5632)], "1-3:1"),
        ("1-3:1+3", [(4096, 8192)], "1-3:1+3"),
        ("1-3:all", [(0, 1 << 20)], "1-3:none"),
    ],
)
def test_what_a_medium_refuses_is_not_in_its_state(
    name: str, gone: list[tuple[int, int]], left: str
) -> None:
    log = WriteLog()
    for at in range(3):
        log.write(at * 4096, b"x" * 4096)
    assert state_named(name, log).without(log, gone).name == left
