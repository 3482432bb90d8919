# SPDX-License-Identifier: MIT
"""Machines that are started and ended, many of them: nothing is left, and what each one takes.

    scripts/endure starts [--number N] [--at-once N] [--crashes N]

The client library starts them, one after the other and many at once, with both
faces.  They are closed, told to quit, killed, or cannot start.  Then pytest runs tests
that crash their workers in all ways.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import click

import faultline.aio
from faultline import Drive, Machine, StartFailed, keep_spares
from runs import Place, place

DRIVE = Drive(size="1M", id="vda")


@dataclass
class Costs:
    """How long starts and ends took, and processor time for each machine, in milliseconds."""

    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    processor: float = 0.0

    def __str__(self) -> str:
        return f"{told(self.starts)} {told(self.ends)} {self.processor:12.0f}"


def told(times: list[float]) -> str:
    if len(times) < 2:
        return "few"
    cuts = statistics.quantiles(times, n=10)
    return f"{statistics.median(times):6.1f} ({cuts[-1]:6.1f})"


@contextmanager
def timed(times: list[float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    times.append((time.perf_counter() - began) * 1e3)


def wrong_start(number: int) -> bool:
    """Every tenth machine cannot start; whether this one is such."""
    if number % 10 != 9:
        return False
    with suppress(StartFailed):
        Machine("no-such.img").start()
        raise AssertionError("it has started")
    return True


def one(number: int, costs: Costs, together: threading.Barrier | None = None) -> None:
    """Start a machine, use it, and end it in one of the ways."""
    if together is None and wrong_start(number):
        return
    machine = Machine(DRIVE)
    with timed(costs.starts):
        machine.start()
    machine.stop()
    machine.wait_event("STOP")
    if together is not None:
        together.wait()
    if number % 3 == 1:
        machine.quit()
    with timed(costs.ends):
        machine.close()


def in_turn(number: int, costs: Costs) -> None:
    for at in range(number):
        one(at, costs)


def at_once(number: int, costs: Costs) -> None:
    """All of them run at one time."""
    together = threading.Barrier(number)
    threads = [threading.Thread(target=one, args=(at, costs, together)) for at in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(costs.ends) == number, "a machine did not start or end"


async def one_async(number: int, costs: Costs, together: asyncio.Barrier | None = None) -> None:
    machine = faultline.aio.Machine(DRIVE)
    with timed(costs.starts):
        await machine.start()
    await machine.stop()
    await machine.wait_event("STOP")
    if together is not None:
        await together.wait()
    if number % 3 == 1:
        await machine.quit()
    with timed(costs.ends):
        await machine.close()


def in_turn_async(number: int, costs: Costs) -> None:
    async def run() -> None:
        for at in range(number):
            await one_async(at, costs)

    asyncio.run(run())


def at_once_async(number: int, costs: Costs) -> None:
    async def run() -> None:
        together = asyncio.Barrier(number)
        await asyncio.gather(*(one_async(at, costs, together) for at in range(number)))

    asyncio.run(run())


CRASHES = """
import os, signal, sys, threading
import pytest
from faultline import Machine

def exits(): os._exit(3)
def segfault(): os.kill(os.getpid(), signal.SIGSEGV)
def kill(): os.kill(os.getpid(), signal.SIGKILL)
def sys_exit(): sys.exit()
def raises(): raise LookupError
def leaves(): Machine().start()
def forks():
    if os.fork() == 0:
        os._exit(1)
    os.wait()

WAYS = [exits, segfault, kill, sys_exit, raises, leaves, forks]

@pytest.mark.parametrize("number", range(NUMBER))
def test_it(number, faultline_factory):
    machines = [faultline_factory() for _ in range(2)]
    machines[0].stop()
    WAYS[number % len(WAYS)]()
"""


def crashes(number: int, here: Place) -> str:
    """Run so many tests that crash; return pytest's last line."""
    text = CRASHES.replace("NUMBER", str(number))
    printed = here.run(text, "-q", "-n", "2", f"--max-worker-restart={number}", "-W", "ignore")
    here.await_the_end_of_all()
    last = printed.splitlines()[-1]
    counts = [int(count) for count in re.findall(r"(\d+) (?:failed|passed)", last)]
    assert sum(counts) == number, printed
    return last


def processor_time() -> float:
    """The processor time that this process and all machines that have ended took, in ms."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) * 1e3


@dataclass(frozen=True)
class Usage:
    """What this process has that machines could leave."""

    descriptors: int
    threads: int
    processes: tuple[int, ...]

    @classmethod
    def now(cls) -> Usage:
        tasks = Path("/proc/self/task")
        children = [
            int(child)
            for task in tasks.iterdir()
            for child in (task / "children").read_text().split()
        ]
        return cls(
            len(os.listdir("/proc/self/fd")),
            threading.active_count(),
            tuple(sorted(children)),
        )


LOADS: dict[str, tuple[Callable[[int, Costs], None], bool]] = {
    "in turn": (in_turn, False),
    "in turn, asyncio": (in_turn_async, False),
    "at once": (at_once, True),
    "at once, asyncio": (at_once_async, True),
}
"""The loads, each with whether its machines run at one time."""


def measured(name: str, number: int, here: Place) -> Costs:
    """Run a load; raises AssertionError if anything is left."""
    load, costs = LOADS[name][0], Costs()
    keep_spares(1)
    asyncio.run(asyncio.sleep(0))  # what asyncio keeps for good
    before = Usage.now()
    used = processor_time()
    load(number, costs)
    keep_spares(0)
    costs.processor = (processor_time() - used) / number
    after = Usage.now()
    assert after == before, f"{name}: {before} became {after}"
    assert not here.left(), f"{name}: left {here.left()}"
    return costs


@contextmanager
def here_for_this_process() -> Iterator[Place]:
    """Make a place in which all files of this process's machines are, too."""
    with place() as made:
        os.environ |= made.environ()
        yield made


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--number", default=500, show_default=True, help="Machines one after the other.")
@click.option("--at-once", default=40, show_default=True, help="Machines that run at one time.")
@click.option("--crashes", "tests", default=70, show_default=True, help="Tests that crash.")
def main(number: int, at_once: int, tests: int) -> None:
    """Start and end machines, and fail if they leave anything behind."""
    with here_for_this_process() as here:
        print(f"{'ms, median (slowest tenth)':40} start {'end':>15} {'processor':>17}", flush=True)
        for name, (_, together) in LOADS.items():
            count = at_once if together else number
            print(f"{name:16} {count:5} machines  {measured(name, count, here)}", flush=True)
        if tests:
            print("tests that crash:", crashes(tests, here), flush=True)
        assert not here.left(), here.left()
    sys.exit(0)


if __name__ == "__main__":
    main(prog_name="scripts/endure starts")
