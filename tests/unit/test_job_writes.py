# SPDX-License-Identifier: MIT
"""Guests' writes and jobs' requests to the same place, step by step in the order that is worst."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from blockcore.bql.effects import Call, Until
from blockcore.job.job import Progress
from blockcore.jobs.backup.block_copy import BlockCopy
from blockcore.jobs.backup.copy_call import CopyCall
from blockcore.jobs.mirror.active import ActiveWrites
from blockcore.jobs.mirror.copier import OpsInFlight
from blockcore.jobs.mirror.filter import MirrorTopNode
from blockcore.nodes.driver import Extent
from blockcore.rules.bitmap import DirtyBitmap

SIZE = 65536


class Stepped:
    """A coroutine of the core; `call` is what it waits for, `until` what has to become true."""

    def __init__(self, coro: Coroutine[Any, Any, None]) -> None:
        self.coro = coro
        self.effect: Call | Until | None = None
        self.advance()

    @property
    def call(self) -> Call:
        assert isinstance(self.effect, Call), self.effect
        return self.effect

    def may_go_on(self) -> bool:
        return isinstance(self.effect, Until) and self.effect.condition()

    def perform(self) -> None:
        """Carry the call out, of whose end the coroutine is not told yet."""
        self.call.fn(*self.call.args)

    def advance(self) -> None:
        """Tell it, as far as it comes without waiting."""
        try:
            self.effect = self.coro.send(True)
            while isinstance(self.effect, Until) and self.effect.condition():
                self.effect = self.coro.send(True)
        except TypeError:  # it has not begun
            self.effect = self.coro.send(None)
        except StopIteration:
            self.effect = None

    def finish(self) -> None:
        while self.effect is not None:
            if isinstance(self.effect, Call):
                self.perform()
            self.advance()


class Disk:
    """Does nothing but write down what is done, when it is carried out."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.size = self.cluster_size = SIZE
        self.content = "old"
        self.file = self.filtered = None
        self.requests = object()
        self._log = log

    async def pread(self, offset: int, buf: memoryview) -> None:
        await Call(self._do, "read", None)

    async def pwrite(self, offset: int, buf: memoryview) -> None:
        await Call(self._do, "write", bytes(buf[:1]).decode())

    async def discard(self, offset: int, length: int) -> None:
        await Call(self._do, "discard", "")

    async def block_status(self, offset: int, length: int) -> Extent:
        return Extent(length, data=True, zero=False)

    def _do(self, what: str, content: str | None) -> None:
        self._log.append(f"{what} {self.name}")
        self.content = self.content if content is None else content


class Host:
    concerns = 0

    class clock:
        monotonic_ns = staticmethod(lambda: 0)


def test_nothing_is_discarded_that_a_guest_writes_meanwhile() -> None:
    log: list[str] = []
    source, target = Disk("source", log), Disk("target", log)
    copy = BlockCopy(Host(), source, target, discard_source=True)  # type: ignore[arg-type]

    async def write() -> None:
        await copy.run(CopyCall(0, SIZE))
        await source.pwrite(0, memoryview(b"g"))

    job = Stepped(copy.run(CopyCall(0, SIZE)))
    guest = Stepped(write())
    while "discard source" not in log:
        assert not guest.may_go_on(), log
        job.perform()
        job.advance()
    assert guest.may_go_on()
    guest.advance()
    guest.finish()
    job.finish()
    assert log == ["read source", "write target", "discard source", "write source"]


def mirrored(
    wanted: Callable[[], bool],
) -> tuple[MirrorTopNode, Disk, Disk, DirtyBitmap, list[str]]:
    """A mirror's filter over a source, with the part of the job that copies writes."""
    log: list[str] = []
    source, target = Disk("source", log), Disk("target", log)
    bitmap = DirtyBitmap(SIZE, SIZE)
    top = MirrorTopNode.__new__(MirrorTopNode)
    top.below, top._marks, top._unmarked = source, bitmap, []  # type: ignore[assignment]
    copier: Any = Host()
    copier.bitmap, copier.target, copier.ops = bitmap, target, OpsInFlight(SIZE)
    copier.widened = lambda offset, end: (offset, end)
    missed: list[str] = []
    top.job = ActiveWrites(
        copier, Progress(), wanted, lambda exc: None, lambda: missed.append("missed")
    )
    return top, source, target, bitmap, missed


def test_a_write_that_began_before_the_copy_mode_changed() -> None:
    """Whichever of two reaches the disk last: the target is the same, or it is marked."""
    for old_first in (True, False):
        blocking = False
        top, source, target, bitmap, missed = mirrored(lambda: blocking)
        old = Stepped(top.do_pwrite(0, memoryview(b"A" * SIZE)))
        blocking = True
        new = Stepped(top.do_pwrite(0, memoryview(b"B" * SIZE)))
        if old_first or isinstance(new.effect, Until):
            old.perform()
        if isinstance(new.effect, Call):
            new.perform()
            old.perform()
        old.advance()
        assert missed == ["missed"] and bitmap.count == SIZE
        new.advance()
        new.finish()
        assert source.content == target.content or bitmap.count
