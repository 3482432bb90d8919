# SPDX-License-Identifier: MIT
"""Images for the qcow2 tests: made and judged by QEMU, worked on by the driver alone."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blockcore.bql.asker import Asker
from blockcore.bql.big_lock import BigLock
from blockcore.bql.clock import Clock, SystemClock
from blockcore.nodes.definitions.allowed_backing import ANY
from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.drivers.file import FileNode
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.drivers.qcow2.settings import Qcow2Settings
from blockcore.nodes.drivers.raw import RawNode
from blockcore.nodes.node import BlockNode
from blockcore.nodes.shortcut.slot import Slot
from blockcore.qapi.events import Event
from blockcore.qapi.names import FaultIOType
from blockcore.qapi.qemu import LATEST
from sim import perform


class Around:
    """What nodes need of a machine."""

    def __init__(self) -> None:
        self.clock: Clock = SystemClock()
        self.qemu = LATEST
        self.seed = 0
        self.asker = Asker
        self.hung_up: list[int] = []
        self.hang_up: Callable[[Iterable[int]], None] = self.hung_up.extend
        self.allow_backing = ANY
        self.events: list[Event] = []
        self.warnings: list[str] = []
        self.slots: list[Slot] = []
        self.concerns = 0
        self.region = BigLock(self.clock).region

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def bug(self, where: str, error: Exception) -> None:
        raise error

    def concerns_changed(self) -> None:
        self.concerns += 1

    def fault_hit(self, rule: str, iotype: FaultIOType, offset: int, length: int) -> None:
        """Nobody records it."""

    def files_sought(self, files: Set[str], present: Set[str]) -> None:
        """Nobody records it."""

    def shortcut_slots(self) -> list[Slot]:
        return self.slots

    def device_of(self, node: object) -> str:
        return "vda"


def options(name: str, **more: Any) -> NodeOptions:
    return NodeOptions(node_name=name, **more)


def open_file(path: Path, around: Around, **more: Any) -> FileNode:
    node = FileNode(options("file", **more), around, str(path), str(path))
    perform(node.do_open())
    return node


def open_on(
    file: BlockNode, around: Around, backing: BlockNode | None = None, **more: Any
) -> Qcow2Node:
    """A qcow2 node on a node that is open."""
    settings = more.pop("settings", Qcow2Settings())
    node = Qcow2Node(options("top", **more), around, file, settings)
    file.parents.append(node)
    perform(node.do_open())
    if backing is not None:
        node.children["backing"] = backing
    return node


def open_backing(path: Path, around: Around) -> BlockNode:
    """A backing file by its name: qcow2 or raw, with its own backing file if it has one."""
    file = open_file(path, around, read_only=True)
    with path.open("rb") as image:
        magic = image.read(4)
    if magic != b"QFI\xfb":
        raw = RawNode(options("backing", read_only=True), around, file)
        perform(raw.do_open())
        return raw
    node = open_on(file, around, read_only=True)
    if node.header.backing_file:
        below = path.parent / node.header.backing_file
        node.children["backing"] = open_backing(below, around)
    return node


@contextmanager
def opened(path: Path, around: Around | None = None, **more: Any) -> Iterator[Qcow2Node]:
    """An image with its backing chain, closed at the end."""
    around = around or Around()
    node = open_on(open_file(path, around, no_flush=True), around, **more)
    if node.header.backing_file:
        node.children["backing"] = open_backing(path.parent / node.header.backing_file, around)
    try:
        yield node
    finally:
        close(node)


def close(node: BlockNode) -> None:
    """Close a node and all below it."""
    perform(node.flush())
    perform(node.do_close())
    for child in node.children.values():
        if child is not node.children.get("backing"):
            perform(child.do_close())
        else:
            close(child)


def read(node: BlockNode, offset: int = 0, length: int | None = None) -> bytes:
    data = bytearray(node.size - offset if length is None else length)
    perform(node.pread(offset, memoryview(data)))
    return bytes(data)


def qemu_img(*arguments: object, check: bool = True) -> str:
    """Run qemu-img; gives what it prints."""
    done = subprocess.run(
        ["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def create(
    path: Path, size: int | str, *more: object, cluster_size: int = 65536, **opts: str
) -> Path:
    """An empty image, by qemu-img."""
    given = {"cluster_size": str(cluster_size), **opts}
    texts = ",".join(f"{key}={value}" for key, value in given.items())
    qemu_img("create", "-q", "-f", "qcow2", "-o", texts, *more, path, size)
    return path


def qemu_io(path: Path, *commands: str, fmt: str = "qcow2") -> str:
    """Let QEMU carry out commands of qemu-io's on an image; gives what it prints."""
    arguments = [text for command in commands for text in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", "-t", "unsafe", "-d", "unmap", "-f", fmt, *arguments, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def check_clean(path: Path) -> None:
    """Neither errors nor leaks."""
    done = subprocess.run(
        ["qemu-img", "check", "-f", "qcow2", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def image_map(path: Path) -> list[tuple[int, int, int, bool, bool, bool]]:
    """qemu-img map: start, length, depth, present, zero, data; neighbours put together."""
    entries = json.loads(qemu_img("map", "--output=json", "-f", "qcow2", path))
    merged: list[tuple[int, int, int, bool, bool, bool]] = []
    for entry in entries:
        kind = (entry["depth"], entry["present"], entry["zero"], entry["data"])
        if merged and merged[-1][2:] == kind:
            merged[-1] = (merged[-1][0], merged[-1][1] + entry["length"], *kind)
        else:
            merged.append((entry["start"], entry["length"], *kind))
    return merged


def content(path: Path) -> bytes:
    """The guest's bytes, read by QEMU."""
    raw = path.with_name(f"{path.name}.content")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", path, raw)
    return raw.read_bytes()


def damage(path: Path, index: int) -> tuple[int, int]:
    """Put a guest cluster at an odd place; the place, and that of the L2 table."""
    with path.open("r+b") as file:
        file.seek(40)
        file.seek(struct.unpack(">Q", file.read(8))[0])
        table = struct.unpack(">Q", file.read(8))[0] & 0x00FF_FFFF_FFFF_FE00
        file.seek(table + 8 * index)
        entry = struct.unpack(">Q", file.read(8))[0] | 512
        file.seek(-8, 1)
        file.write(struct.pack(">Q", entry))
    return entry & 0x00FF_FFFF_FFFF_FE00, table
