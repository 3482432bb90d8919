# SPDX-License-Identifier: MIT
"""One seed, one work, many runs at several queue depths: the same faults, and the same disk.

    scripts/endure determinism [--runs N] [--depths 1,8,32] [--requests N] [--seed N]

Each run is a machine of its own.  Its guests send reads, writes, zeroes, discards
and flushes on several connections; a block has one request in flight at a time, so
that its n-th request is the same one in each run, and a flush has the machine for
itself, because one with nothing to flush is not a request to the node.  Rules of
chance fail, tear, lose and delay them.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from live import Flight, Live, Request, make_image

BLOCK = 4096
BLOCKS = 64
NO_BLOCK = -1
FLUSH_EACH = 10
"""A flush comes after so many requests."""

CONNECTIONS = 4
THREADS = 16
"""Requests of a connection that nbdkit serves at once."""

RULES: list[dict[str, Any]] = [
    {"id": "slow", "action": "delay", "jitter-ms": 2, "rate": 0.05},
    {"id": "flaky", "iotype": ["read", "write", "write-zeroes", "discard", "flush"], "rate": 0.1},
    {"id": "torn", "action": "torn", "keep": "random", "errno": 0, "rate": 0.2},
    {"id": "lost", "action": "drop", "rate": 0.1},
    {"id": "rot", "action": "corrupt", "medium": True, "bits": 3, "rate": 0.1},
]

KINDS = {"pread": "read", "pwrite": "write", "zero": "write-zeroes", "trim": "discard"}
"""Calls of libnbd, and what a rule names the request."""


class Task(NamedTuple):
    """A request: libnbd's name of it, its block, and its number in the work."""

    call: str
    block: int
    number: int


class Touch(NamedTuple):
    """A request by what decides about it: `nth` counts those of its kind and block from 0.

    Flushes are of block -1.
    """

    kind: str
    block: int
    nth: int


class Outcome(NamedTuple):
    """What became of the work: the requests that failed, and the disk's contents after it.

    `hits` are those of each rule, with its id.
    """

    failed: frozenset[Touch]
    hits: tuple[tuple[str, int], ...]
    contents: str


def tasks(requests: int, seed: int) -> list[Task]:
    """Return the work, the same for a seed."""
    rng = random.Random(seed)
    calls = [*KINDS, "pread", "pwrite", "pwrite"]
    return [
        Task(rng.choice(calls), rng.randrange(BLOCKS), number)
        if (number + 1) % FLUSH_EACH
        else Task("flush", NO_BLOCK, number)
        for number in range(requests)
    ]


class Guests:
    """Clients that do the work together, with so many requests in flight."""

    def __init__(self, live: Live, depth: int, stack: contextlib.ExitStack) -> None:
        count = min(CONNECTIONS, depth)
        self.handles = [stack.enter_context(live.guest("vda")) for _ in range(count)]
        self.depth = depth
        self.flight = Flight()
        self.sent: dict[Request, Touch] = {}
        self.busy: set[int] = set()
        self.touches: Counter[tuple[str, int]] = Counter()
        self.failed: set[Touch] = set()
        self._turn = 0

    def work(self, left: list[Task]) -> None:
        """Send all of it, each block's requests one after the other, flushes alone."""
        while left or self.sent:
            self._send_some(left)
            for request in self.flight.poll(1.0):
                self._answered(request)

    def _send_some(self, left: list[Task]) -> None:
        for task in list(left):
            if len(self.sent) == self.depth or NO_BLOCK in self.busy:
                return
            if task.call == "flush" and self.sent:
                return
            if task.block not in self.busy:
                left.remove(task)
                self._send(task)

    def _send(self, task: Task) -> None:
        self._turn += 1
        handle = self.handles[self._turn % len(self.handles)]
        at = task.block * BLOCK
        kind = KINDS.get(task.call, "flush")
        if task.call == "flush":
            request = self.flight.send(handle, "flush")
        elif task.call == "pread":
            request = self.flight.read(handle, at, BLOCK)
        elif task.call == "pwrite":
            request = self.flight.write(handle, at, random.Random(task.number).randbytes(BLOCK))
        else:
            request = self.flight.send(handle, task.call, BLOCK, at)
        self.sent[request] = Touch(kind, task.block, self.touches[kind, task.block])
        self.touches[kind, task.block] += 1
        self.busy.add(task.block)

    def _answered(self, request: Request) -> None:
        touch = self.sent.pop(request)
        self.busy.discard(touch.block)
        if request.outcome != "OK":
            assert request.outcome == "EIO", request.outcome
            self.failed.add(touch)


def run(directory: Path, seed: int, depth: int, requests: int) -> Outcome:
    """Do the work on a new machine, and return what became of it."""
    make_image(directory / "disk", BLOCKS * BLOCK)
    drive = "drive=id=vda,file=disk,format=raw,rerror=report,werror=report,discard=unmap"
    options = ("--threads", str(THREADS))
    with Live(directory, f"seed={seed}", drive, options=options) as live, live.qmp() as qmp:
        assert live.ready["seed"] == qmp("x-query-seed")["seed"] == seed
        for rule in RULES:
            qmp.execute("x-fault-add", {"node-name": "vda", **rule})
        with contextlib.ExitStack() as stack:
            guests = Guests(live, depth, stack)
            guests.work(tasks(requests, seed))
        hits = tuple((rule["id"], rule["hits"]) for rule in qmp("x-query-faults"))
        qmp("x-fault-clear")
        with live.guest("vda") as guest:
            contents = hashlib.sha256(guest.pread(BLOCKS * BLOCK, 0)).hexdigest()
    return Outcome(frozenset(guests.failed), hits, contents)


def outcomes(seed: int, runs: int, depths: list[int], requests: int) -> Iterator[Outcome]:
    """Yield what becomes of the work in each run, at each depth in turn."""
    for _ in range(runs):
        for depth in depths:
            with tempfile.TemporaryDirectory(prefix="faultline-determinism-") as directory:
                yield run(Path(directory), seed, depth, requests)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--runs", default=50, show_default=True, help="Runs at each depth.")
@click.option("--depths", default="1,8,32", show_default=True, help="Requests in flight.")
@click.option("--requests", default=2000, show_default=True)
@click.option("--seed", type=int, default=None, help="That a run has printed, to do it again.")
def main(runs: int, depths: str, requests: int, seed: int | None) -> None:
    """Do the same work again and again; end at the first run with other faults."""
    seed = random.randrange(1 << 32) if seed is None else seed
    print(f"seed {seed}", flush=True)
    wanted: Outcome | None = None
    numbers = [int(depth) for depth in depths.split(",")]
    count = 0
    for count, outcome in enumerate(outcomes(seed, runs, numbers, requests), start=1):
        wanted = wanted or outcome
        if outcome != wanted:
            differing = sorted(outcome.failed ^ wanted.failed)[:10]
            raise SystemExit(f"run {count}: {outcome._replace(failed=frozenset(differing))}")
    assert wanted is not None
    print(f"{count} runs at depths {depths}: the same {len(wanted.failed)} requests of "
          f"{requests} failed; {dict(wanted.hits)}")


if __name__ == "__main__":
    main(prog_name="scripts/endure determinism")
