# SPDX-License-Identifier: MIT
"""Random load on one drive, and a model that knows what its content must be.

Each guest owns every `guests`-th 4 KiB block and has at most one request on a
block in flight, so that the model is exact: a write that was answered OK must
be there, one that failed or is still unknown may be there or not, and a read
must give something the block may hold.  An ignored write is answered OK and is
not there; the machine says how many there were, not which, so a run either
ignores writes or judges content block by block.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import nbd

from faultline import FaultlineError
from live import Flight, Live, Qmp, Request

BLOCK = 4096


DEPTH = 8


class Writer(threading.Thread):
    """A guest that writes pieces, offset and data, `DEPTH` of them at a time, and flushes.

    `failed` has what was refused.
    """

    def __init__(self, live: Live, pieces: Iterable[tuple[int, bytes]]) -> None:
        super().__init__()
        self.live = live
        self.pieces = pieces
        self.failed: list[str] = []

    def run(self) -> None:
        try:
            with self.live.guest() as guest:
                self._write(guest)
        except nbd.Error as error:
            self.failed.append(error.string)

    def _write(self, guest: nbd.NBD) -> None:
        def done(error: int) -> int:
            if error:
                self.failed.append(str(error))
            return 1

        for offset, data in self.pieces:
            while guest.aio_in_flight() >= DEPTH:
                guest.poll(-1)
            guest.aio_pwrite(data, offset, completion=done)
        while guest.aio_in_flight():
            guest.poll(-1)
        guest.flush()


@dataclass
class Tally:
    """What one guest was told of its requests; operations by outcome."""

    reads_ok: int = 0
    reads_failed: int = 0
    writes_ok: int = 0
    writes_failed: int = 0
    flushes_ok: int = 0
    flushes_failed: int = 0

    def add(self, other: Tally) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Pending:
    """A request in flight: what it does to which block, and with what value (0 of a read)."""

    request: Request
    kind: str
    block: int = -1
    value: int = 0


@dataclass
class LoadGuest:
    """One connection with `depth` requests in flight; `may` is what each block may hold."""

    machine: Live
    index: int
    guests: int
    blocks: int
    depth: int
    rng: random.Random
    exact: bool
    tally: Tally = field(default_factory=Tally)
    may: dict[int, set[int]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def pattern(self, value: int) -> bytes:
        """A block's content for a value; 0 is the empty disk's."""
        if not value:
            return bytes(BLOCK)
        return (self.index.to_bytes(2, "big") + value.to_bytes(6, "big")) * (BLOCK // 8)

    def run(self, until: float) -> None:
        """Keep `depth` requests in flight until then, and wait for the last."""
        with self.machine.guest() as guest:
            flight = Flight()
            pending: list[Pending] = []
            value = 0
            while time.monotonic() < until or pending:
                if time.monotonic() < until and len(pending) < self.depth:
                    value += 1
                    pending.append(self._send(guest, flight, pending, value))
                    continue
                flight.poll(1.0)
                done = [p for p in pending if p.request.outcome is not None]
                pending = [p for p in pending if p.request.outcome is None]
                for p in done:
                    self._judge(p)

    def _send(self, guest: nbd.NBD, flight: Flight, pending: list[Pending], value: int) -> Pending:
        busy = {p.block for p in pending}
        free = [b for b in range(self.index, self.blocks, self.guests) if b not in busy]
        block = self.rng.choice(free)
        kind = self.rng.choices(("read", "write", "flush"), (10, 10, 1))[0]
        if kind == "flush":
            return Pending(flight.send(guest, "flush"), kind)
        if kind == "read":
            return Pending(flight.read(guest, block * BLOCK, BLOCK), kind, block)
        fua = nbd.CMD_FLAG_FUA if self.rng.random() < 0.05 else 0
        request = flight.write(guest, block * BLOCK, self.pattern(value), fua)
        return Pending(request, kind, block, value)

    def _judge(self, p: Pending) -> None:
        ok = p.request.outcome == "OK"
        if p.request.outcome not in ("OK", "EIO", "ENOSPC"):
            self.wrong.append(f"{p.kind} of block {p.block} ended with {p.request.outcome}")
        count = f"{'flushes' if p.kind == 'flush' else p.kind + 's'}_{'ok' if ok else 'failed'}"
        setattr(self.tally, count, getattr(self.tally, count) + 1)
        if p.kind == "write":
            before = self.may.get(p.block, {0})
            certain = ok and self.exact
            self.may[p.block] = {p.value} if certain else before | {p.value}
        elif p.kind == "read" and ok and self.exact:
            self.check(p.block, p.request.data)

    def check(self, block: int, data: bytes) -> None:
        """Whether a block holds something it may hold."""
        if not any(data == self.pattern(value) for value in self.may.get(block, {0})):
            self.wrong.append(f"block {block} of guest {self.index}: {data[:8].hex()}")


class Trouble:
    """Faults, policies, stops and conts at random, from a client of its own."""

    def __init__(self, machine: Live, rng: random.Random, policies: tuple[str, ...]) -> None:
        self.machine = machine
        self.rng = rng
        self.policies = policies

    def run(self, until: float) -> None:
        """Make trouble until then; afterwards nothing is wrong any more and the machine runs."""
        with self.machine.qmp() as qmp:
            while time.monotonic() < until:
                self._step(qmp)
                qmp.take_events()
            qmp("x-fault-clear")
            qmp("cont")

    def _step(self, qmp: Qmp) -> None:
        step = self.rng.choice(("add", "add", "remove", "stop", "cont", "cont", "cont", "policy"))
        if step == "add":
            arguments = {
                "iotype": self.rng.choice(("read", "write", "flush")),
                "errno": self.rng.choice(("EIO", "ENOSPC")),
                "count": self.rng.randint(1, 20),
                "rate": self.rng.choice((0.1, 1.0)),
            }
            qmp.execute("x-fault-add", {"node-name": "vda", **arguments})
        elif step == "remove":
            rules = qmp("x-query-faults")
            if rules:
                qmp("x-fault-remove", id=self.rng.choice(rules)["id"])
        elif step == "policy":
            qmp(
                "x-drive-set-policy",
                device="vda",
                rerror=self.rng.choice([p for p in self.policies if p != "enospc"]),
                werror=self.rng.choice(self.policies),
            )
        else:
            qmp(step)


@dataclass
class Load:
    """One run: `guests` connections of `depth` requests, for `seconds`."""

    machine: Live
    seed: int
    seconds: float
    guests: int = 8
    depth: int = 32
    blocks: int = 2048
    policies: tuple[str, ...] = ("report", "stop", "enospc")

    def run(self) -> tuple[Tally, list[str]]:
        """What the guests were told, and what was wrong."""
        exact = "ignore" not in self.policies
        until = time.monotonic() + self.seconds
        loads = [
            LoadGuest(
                self.machine,
                index,
                self.guests,
                self.blocks,
                self.depth,
                random.Random(self.seed * 1000 + index),
                exact,
            )
            for index in range(self.guests)
        ]
        trouble = Trouble(self.machine, random.Random(self.seed), self.policies)
        failures: list[BaseException] = []

        def guarded(work: LoadGuest | Trouble) -> None:
            try:
                work.run(until)
            except (AssertionError, OSError, nbd.Error, FaultlineError) as exc:
                failures.append(exc)

        workers = [threading.Thread(target=guarded, args=(work,)) for work in (*loads, trouble)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        wrong = [repr(failure) for failure in failures]
        total = Tally()
        with self.machine.guest() as guest:
            for load in loads:
                total.add(load.tally)
                for block in range(load.index, self.blocks, self.guests) if exact else ():
                    load.check(block, guest.pread(BLOCK, block * BLOCK))
                wrong += load.wrong
        return total, wrong
