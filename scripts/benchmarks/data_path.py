# SPDX-License-Identifier: MIT
"""Rows of the data path: fio against this tree, nbdkit in C, and QEMU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import connect, fio
from benchmarks.plan import Plan
from benchmarks.rounds import Budget, Row, take_turns
from benchmarks.servers import Server, faultline, nbdkit_file, qemu_nbd

SECTOR_SIZE = 512


@dataclass(frozen=True, slots=True)
class Pattern:
    """A load that fio makes; `unit` is the figure that is reported of it.

    `rw` and `block` are fio's, `depth` is how many requests are in flight.  The
    load lasts as long as the plan says, or with `once` until it has been over
    the whole drive.
    """

    rw: str
    block: str
    depth: int
    unit: str
    once: bool = False

    def on(self, server: Server, plan: Plan, size: int) -> Callable[[], float]:
        """Return a function that measures the load on the first `size` bytes of a drive."""
        return lambda: fio(
            server.uri(),
            rw=self.rw,
            block=self.block,
            depth=self.depth,
            size=size,
            seconds=None if self.once else plan.seconds,
        )[self.unit]


RANDOM_READ = Pattern("randread", "4k", 32, "iops")
RANDOM_WRITE = Pattern("randwrite", "4k", 32, "iops")
LARGE_READ = Pattern("read", "1M", 4, "mib_s")
LARGE_WRITE = Pattern("write", "1M", 4, "mib_s")


def random_row(plan: Plan, name: str, pattern: Pattern) -> Row:
    """Measure small requests: to be nearly as good as C with its filter, far better than QEMU."""
    row = _against_peers(plan, name, f"4k {pattern.rw}, 32 in flight", pattern)
    row.compare("faultline", "nbdkit file + error filter", Budget(least=0.85))
    row.compare("faultline", "qemu-nbd raw + blkdebug", Budget(least=2))
    return row


def large_row(plan: Plan, name: str, pattern: Pattern) -> Row:
    """Measure large requests, where nothing but the copying should cost time."""
    row = _against_peers(plan, name, f"1 MiB sequential {pattern.rw}, 4 in flight", pattern)
    row.compare("faultline", "nbdkit file + error filter", Budget(least=1))
    row.compare("faultline", "qemu-nbd raw + blkdebug")
    return row


def rules_row(plan: Plan, name: str, pattern: Pattern) -> Row:
    """Measure fio in the first half of a drive that has many rules for the second half."""
    half = plan.size // 2
    with contextlib.ExitStack() as stack:
        where, image = plan.directory, plan.image
        config = where / "rules.conf"
        config.write_text(_blkdebug_config(half, plan.rules))
        plain = stack.enter_context(faultline(where, f"drive=id=vda,file={image},format=raw"))
        ruled = stack.enter_context(faultline(where, f"drive=id=vda,file={image},format=raw"))
        _add_rules(ruled, half, plan.rules)
        configured = stack.enter_context(
            faultline(where, f"drive=id=vda,file=blkdebug:{config}:{image},format=raw")
        )
        qemu = stack.enter_context(qemu_nbd(where, image, config))
        servers = {
            "no rules": plain,
            "x-fault-add": ruled,
            "blkdebug file": configured,
            "qemu-nbd, blkdebug file": qemu,
        }
        contenders = {who: pattern.on(server, plan, half) for who, server in servers.items()}
        figures = take_turns(contenders, plan.rounds)
    what = f"4k {pattern.rw}, 32 in flight, {plan.rules} rules that do not match"
    row = Row(name, what, pattern.unit, figures)
    row.compare("x-fault-add", "no rules", Budget(least=0.8))
    row.compare("blkdebug file", "no rules", Budget(least=0.8))
    row.compare("blkdebug file", "qemu-nbd, blkdebug file")
    return row


def _against_peers(plan: Plan, name: str, what: str, pattern: Pattern) -> Row:
    with _servers(plan.directory, plan.image) as servers:
        contenders = {who: pattern.on(server, plan, plan.size) for who, server in servers.items()}
        return Row(name, what, pattern.unit, take_turns(contenders, plan.rounds))


@contextlib.contextmanager
def _servers(directory: Path, image: Path) -> Iterator[dict[str, Server]]:
    """Start all servers on one file, so that its pages are equally warm for each."""
    with contextlib.ExitStack() as stack:
        ours = faultline(directory, f"drive=id=vda,file={image},format=raw")
        yield {
            "faultline": stack.enter_context(ours),
            "nbdkit file + error filter": stack.enter_context(nbdkit_file(directory, image)),
            "qemu-nbd raw + blkdebug": stack.enter_context(qemu_nbd(directory, image)),
        }


def _add_rules(server: Server, start: int, count: int) -> None:
    """Add rules for ranges of one sector, with a sector between each range and the next."""
    with connect(server.control) as qmp:
        for index in range(count):
            offset = start + 2 * index * SECTOR_SIZE
            qmp.execute(
                "x-fault-add", {"node-name": "vda", "offset": offset, "length": SECTOR_SIZE}
            )


def _blkdebug_config(start: int, count: int) -> str:
    """Return a blkdebug configuration with as many rules, half for reads and half for writes."""
    first = start // SECTOR_SIZE
    events = ("read_aio", "write_aio")
    return "".join(
        f'[inject-error]\nevent = "{events[index % 2]}"\nerrno = "5"\nsector = "{first + index}"\n'
        for index in range(count)
    )
