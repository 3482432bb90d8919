# SPDX-License-Identifier: MIT
"""Data from node to node: past them is as through them, and only if nobody is concerned."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from blockcore.jobs import shortcut
from blockcore.jobs.copy_data import DataCopier
from blockcore.jobs.shortcut import CopyShortcut
from blockcore.jobs.sides import SourceError
from blockcore.machine.machine import Machine
from blockcore.nodes.driver import Extent
from blockcore.nodes.drivers.file import FileNode
from blockcore.nodes.node import BlockNode
from blockcore.qapi.events import Event
from sim import Sim, execute, new_machine, perform

KIB = 1024
SIZE = 256 * KIB
PART = 64 * KIB
DATA = bytes(range(256)) * (SIZE // 256)


@dataclass
class Pair:
    """Two raw nodes, source and target, with files below them."""

    machine: Machine
    directory: Path
    events: list[Event]
    copier: DataCopier

    def node(self, name: str) -> BlockNode:
        return self.machine.graph.nodes[name]

    def __call__(self, command: str, **arguments: Any) -> Any:
        return perform(execute(self.machine, command, **arguments))

    def traces(self) -> dict[str, Any]:
        """All that copying may leave behind."""
        names = ["source", "target", "source-file", "target-file"]
        nodes = {name: self.node(name) for name in names}
        return {
            "data": (self.directory / "target").read_bytes(),
            "highest": {name: node.wr_highest_offset for name, node in nodes.items()},
            "written": {name: node.traces.generation for name, node in nodes.items()},
            "bitmaps": {
                name: [list(bitmap.areas()) for bitmap in node.bitmaps]
                for name, node in nodes.items()
            },
            "rules": self("x-query-faults"),
            "events": list(self.events),
        }


def make_pair(directory: Path, **target: Any) -> Pair:
    directory.mkdir()
    (directory / "source").write_bytes(DATA)
    (directory / "target").write_bytes(b"t" * SIZE)
    machine = new_machine(Sim(0))
    events: list[Event] = []
    machine.listeners.append(lambda event, now_ns: events.append(event))
    for name in ("source", "target"):
        file = {"driver": "file", "node-name": f"{name}-file", "filename": str(directory / name)}
        more = target if name == "target" else {}
        perform(execute(machine, "blockdev-add", driver="raw", node_name=name, file=file, **more))
    nodes = machine.graph.nodes
    copier = DataCopier(machine, nodes["source"], nodes["target"], PART)
    return Pair(machine, directory, events, copier)


@pytest.fixture(name="calls")
def _calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the parts that went past the nodes."""
    calls: list[int] = []
    move = CopyShortcut._move

    def counted(self: CopyShortcut, offset: int, length: int) -> None:
        calls.append(length)
        move(self, offset, length)

    monkeypatch.setattr(CopyShortcut, "_move", counted)
    return calls


def outcome(pair: Pair, offset: int, length: int) -> tuple[bool, int]:
    """Whether it was the source that failed, and the errno."""
    try:
        perform(pair.copier.copy(offset, length))
    except OSError as exc:
        return isinstance(exc, SourceError), exc.errno or -1
    return False, 0


def rule(node: str, **members: Any) -> Callable[[Pair], None]:
    def add(pair: Pair) -> None:
        pair("x-fault-add", node_name=node, **members)

    return add


def bitmap(node: str) -> Callable[[Pair], None]:
    def add(pair: Pair) -> None:
        pair("block-dirty-bitmap-add", node=node, name="b", granularity=4096)

    return add


def threshold(pair: Pair) -> None:
    pair("block-set-write-threshold", node_name="target", write_threshold=PART + 1)


def copying_on_read(pair: Pair) -> None:
    pair.node("source-file").track_requests()


def between(concern: Callable[[Pair], None]) -> Callable[[Pair], None]:
    """It comes when two parts have been copied."""

    def add(pair: Pair) -> None:
        for at in (0, PART):
            assert outcome(pair, at, PART) == (False, 0)
        concern(pair)

    return add


def nothing(pair: Pair) -> None:
    """Nobody is concerned."""


@pytest.mark.parametrize(
    ("concern", "past"),
    [
        (nothing, 4),
        (bitmap("target"), 4),
        (bitmap("target-file"), 4),
        (rule("source", iotype="read", errno="EIO", offset=0, length=512), 3),
        (rule("source-file", iotype="read", errno="ENOMEM", offset=PART, length=512), 3),
        (rule("target", iotype="write", errno="ENOSPC", offset=2 * PART, length=512), 3),
        (rule("target-file", iotype="write", errno="EIO", offset=PART, length=PART), 3),
        (rule("target", iotype="write", errno="EIO"), 0),
        (rule("source", iotype="read", errno="EIO", once=True), 3),
        (threshold, 2),
        (copying_on_read, 0),
        (between(rule("target", iotype="write", errno="EIO")), 2),
        (between(rule("source-file", iotype="read", errno="EIO", offset=0, length=512)), 5),
        (between(bitmap("target-file")), 6),
        (between(threshold), 4),
    ],
)
def test_past_the_nodes_is_as_through_them(
    concern: Callable[[Pair], None],
    past: int,
    tmp_path: Path,
    calls: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    for way in ("past", "through"):
        if way == "through":
            monkeypatch.setattr(DataCopier, "_shortcut", lambda *_: None)
        pair = make_pair(tmp_path / way)
        concern(pair)
        outcomes = [outcome(pair, at, PART) for at in range(0, SIZE, PART)]
        seen.append((outcomes, pair.traces()))
    assert seen[0] == seen[1]
    assert len(calls) == past


@pytest.mark.parametrize(
    "concern",
    [
        nothing,
        bitmap("target-file"),
        rule("source", iotype="read", errno="EIO", offset=0, length=512),
        rule("source-file", iotype="read", errno="ENOMEM", offset=PART, length=512),
        rule("target", iotype="write", errno="ENOSPC", offset=2 * PART, length=512),
        rule("target-file", iotype="write", errno="EIO"),
    ],
)
def test_several_parts_are_as_one_after_the_other(
    concern: Callable[[Pair], None], tmp_path: Path
) -> None:
    """Up to the one that fails."""
    parts = [(at, PART // 2) for at in range(0, SIZE, PART)]
    together, singly = make_pair(tmp_path / "together"), make_pair(tmp_path / "singly")
    for pair in (together, singly):
        concern(pair)
    done, error = perform(together.copier.copy_all(parts))
    outcomes = [outcome(singly, *part) for part in parts[: done + 1]]
    told = (isinstance(error, SourceError), error.errno) if error else (False, 0)
    assert outcomes == [(False, 0)] * done + ([told] if error else [])
    assert (done == len(parts)) is (error is None)
    assert together.traces() == singly.traces()


@pytest.mark.parametrize("call", ["read_all", "write_all"])
@pytest.mark.parametrize("nth", [1, 2, 4])
def test_those_before_the_one_that_fails_are_done(
    call: str, nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair(tmp_path / "pair")
    bitmap("target")(pair)
    real, calls = getattr(shortcut, call), []

    def fails(*arguments: Any) -> None:
        calls.append(call)
        if len(calls) == nth:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(*arguments)

    monkeypatch.setattr(shortcut, call, fails)
    parts = [(at, PART) for at in range(0, SIZE, PART)]
    done, error = perform(pair.copier.copy_all(parts))
    assert done == nth - 1 and isinstance(error, SourceError) is (call == "read_all")
    touched = (done + (call == "write_all")) * PART
    assert pair.traces()["bitmaps"]["target"] == [[(0, touched)] if touched else []]
    assert (tmp_path / "pair" / "target").read_bytes()[: done * PART] == DATA[: done * PART]


def test_a_bitmap_that_comes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data reach the target when it is there; one that has gone marks nothing any more."""
    pair = make_pair(tmp_path / "pair")
    pair("block-dirty-bitmap-add", node="target", name="off")
    real, target = getattr(shortcut, "write_all"), pair.node("target")  # noqa: B009

    def writes(*arguments: Any) -> None:
        if not target.bitmaps.recording[1:]:
            pair("block-dirty-bitmap-disable", node="target", name="off")
            pair("block-dirty-bitmap-add", node="target", name="b")
        real(*arguments)

    monkeypatch.setattr(shortcut, "write_all", writes)
    assert perform(pair.copier.copy_all([(0, PART)])) == (1, None)
    marked = {one.name: list(one.areas()) for one in target.bitmaps}
    assert marked == {"b": [(0, PART)], "off": []}


def test_what_has_a_shortcut(tmp_path: Path) -> None:
    """A rule anywhere at the source could be about the question what is there."""
    pair = make_pair(tmp_path / "pair")
    assert pair.copier.has_shortcut(0, PART)
    pair("x-fault-add", id="f", node_name="target", iotype="write", offset=0, length=512)
    assert not pair.copier.has_shortcut(0, PART) and pair.copier.has_shortcut(PART, PART)
    pair("x-fault-remove", id="f")
    pair("x-fault-add", node_name="source-file", iotype="block-status", offset=0, length=512)
    assert not pair.copier.has_shortcut(PART, PART)


@pytest.mark.parametrize(
    ("call", "outcome_of", "touched"),
    [("read_all", (True, errno.EIO), False), ("write_all", (False, errno.ENOSPC), True)],
)
def test_the_side_that_fails_is_told_from_the_other(
    call: str,
    outcome_of: tuple[bool, int],
    touched: bool,
    tmp_path: Path,
    calls: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A write that fails may have done a part, a read that does has left the target alone."""
    pair = make_pair(tmp_path / "pair")
    bitmap("target")(pair)

    def fails(*_: object) -> None:
        raise OSError(outcome_of[1], os.strerror(outcome_of[1]))

    monkeypatch.setattr(shortcut, call, fails)
    assert outcome(pair, PART, PART) == outcome_of
    assert calls == [PART]
    traces = pair.traces()
    assert traces["bitmaps"]["target"] == [[(PART, PART)] if touched else []]
    assert traces["highest"]["target-file"] == (2 * PART if touched else 0)


def test_offsets_of_raw_nodes_count(tmp_path: Path, calls: list[int]) -> None:
    pair = make_pair(tmp_path / "pair", offset=PART)
    assert outcome(pair, 0, 512) == (False, 0)
    data = (pair.directory / "target").read_bytes()
    assert data == b"t" * PART + DATA[:512] + b"t" * (SIZE - PART - 512)
    assert pair.node("target-file").wr_highest_offset == PART + 512
    assert calls == [512]


def test_beyond_the_target_the_nodes_decide(tmp_path: Path, calls: list[int]) -> None:
    pair = make_pair(tmp_path / "pair", offset=PART)
    outcome(pair, SIZE - PART, PART)
    assert calls == []


def test_parts_larger_than_usual_fit(tmp_path: Path, calls: list[int]) -> None:
    pair = make_pair(tmp_path / "pair")
    assert outcome(pair, 0, SIZE) == (False, 0)
    assert (pair.directory / "target").read_bytes() == DATA
    assert calls == [SIZE]


# What a plain file remembers of where its data is.


def test_data_that_was_found_is_remembered_until_a_hole_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair(tmp_path / "pair")
    file = pair.node("target-file")
    looked: list[int] = []
    seek = os.lseek

    def lseek(fd: int, offset: int, whence: int) -> int:
        looked.append(offset)
        return seek(fd, offset, whence)

    def status(offset: int) -> tuple[Extent, bool]:
        looked.clear()
        extent = perform(file.block_status(offset, PART))
        return extent, bool(looked)

    monkeypatch.setattr(os, "lseek", lseek)
    data, hole = Extent(PART, data=True, zero=False), Extent(PART, data=False, zero=True)
    assert status(0) == (data, True)
    assert status(2 * PART) == (data, False)
    perform(file.discard(PART, PART))
    assert status(PART) == (hole, True)
    assert status(2 * PART) == (data, True)
    assert status(3 * PART) == (data, False)
    perform(file.zero(3 * PART, PART, may_unmap=True))
    assert status(3 * PART) == (hole, True)
    assert status(0) == (data, True)
    perform(file.truncate(PART // 2))
    perform(file.truncate(PART))
    assert status(0) == (Extent(PART // 2, data=True, zero=False), True)


def test_what_is_found_while_a_hole_is_made_is_not_remembered(tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "pair")
    file = pair.node("target-file")
    assert isinstance(file, FileNode)
    looking = file.block_status(0, PART)
    call = looking.send(None)
    found = call.perform()
    perform(file.discard(0, PART))
    with pytest.raises(StopIteration):
        looking.send(found)
    assert perform(file.block_status(0, PART)) == Extent(PART, data=False, zero=True)
