# SPDX-License-Identifier: MIT
"""Kinds of block job, and the images that they work on."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from blockcore.nodes.driver import Extent
from qcow2_disk import Disk
from qcow2_images import Around, create, open_on
from sim import MemoryNode, pause, perform

KIB = 1024
SIZE = 256 * KIB
BLOCK = 4 * KIB
CLUSTER = 16 * KIB
COPY = 64 * KIB
FILLER = 0xEE
"""What `dst` is full of before anything is copied to it."""

IN_TOP = frozenset({0, 5, 8})
IN_MID = frozenset({1, 2, 5, 9, 14})
HOLES = frozenset({3, 12})
"""Numbers of clusters: what the images have, and where `base` is zero."""

BITMAP = ((0, COPY), (2 * COPY, BLOCK))
"""What is dirty in the bitmap that a backup is made by."""


class Flat(MemoryNode):
    """A disk that knows where it is zero, and says so, or with `vague` that nothing is there."""

    vague = False
    asks_slowly = False
    """Whether others may come in between when it is asked."""
    step = CLUSTER
    """Of no more than that does it know at a time."""
    zeroes_unmap = True

    async def do_block_status(self, offset: int, length: int) -> Extent:
        if self.asks_slowly:
            # After one call the same thread may go on.
            await pause()
            await pause()
        end = min(offset - offset % self.step + self.step, offset + length)
        zero = not any(self.data[offset:end])
        return Extent(end - offset, data=not zero, zero=zero and not self.vague)


@dataclass(frozen=True)
class Kind:
    """A kind of job: its command, and what it does to the images.

    `on_chain`: its drive is the chain, whose base has `base_size` bytes;
    `to_image`: its target is one, with `over` the name of a backing file that
    is not opened.  `sync` is what it copies.  If it can
    succeed, the images named in `rebased` have another backing file then, or
    none; `pivots`: the drive has another root.  `vague`: zeroes of the source
    are holes of which nobody knows anything.  `together`: small parts are copied
    by one, as they are where nobody is concerned, which here everybody is.
    """

    command: str
    arguments: dict[str, Any]
    on_chain: bool = False
    base_size: int = SIZE
    to_image: bool = False
    over: str | None = None
    vague: bool = False
    policies: tuple[str, ...] = ("on-source-error", "on-target-error")
    rebased: tuple[tuple[str, str | None], ...] = ()
    pivots: bool = False
    together: bool = False

    @property
    def writes_both(self) -> bool:
        """Whether guests' writes go to the target as well before they are answered."""
        return self.arguments.get("copy_mode") == "write-blocking"

    @property
    def sync(self) -> str | None:
        sync: str | None = self.arguments.get("sync")
        return sync

    def side(self, disk: str, what: str) -> str:
        """Which side of the job an I/O of a disk belongs to."""
        if self.command == "block-stream":
            written = "mid-file" if self.arguments["device"] == "mid" else "top-file"
            return "target" if disk == written else "source"
        if self.command == "block-commit":
            return "target" if disk == "base" and what != "read" else "source"
        return "target" if disk.startswith("dst") else "source"


def _stream(**more: Any) -> Kind:
    arguments = {"device": "vda", **more.pop("arguments", {})}
    return Kind("block-stream", arguments, on_chain=True, policies=("on-error",), **more)


def _commit(**more: Any) -> Kind:
    arguments = {"device": "vda", **more.pop("arguments", {})}
    return Kind("block-commit", arguments, on_chain=True, policies=("on-error",), **more)


def _mirror(
    on_chain: bool = False,
    to_image: bool = False,
    over: str | None = None,
    vague: bool = False,
    together: bool = False,
    **more: Any,
) -> Kind:
    """With small granules and a small buffer, so that there is a lot to do."""
    plain = {"device": "vda", "target": "dst", "sync": "full", "granularity": 32 * KIB}
    arguments = {**plain, "buf_size": 32 * KIB, **more}
    pivots = arguments["sync"] == "full"
    return Kind(
        "blockdev-mirror",
        arguments,
        on_chain=on_chain,
        to_image=to_image or over is not None,
        over=over,
        vague=vague,
        together=together,
        pivots=pivots,
    )


def _backup(sync: str, on_chain: bool = False, to_image: bool = False, **more: Any) -> Kind:
    arguments = {"device": "vda", "target": "dst", "sync": sync, **more}
    return Kind("blockdev-backup", arguments, on_chain=on_chain, to_image=to_image)


_TOP_ON_BASE = (("top", "base"),)

KINDS: dict[str, Kind] = {
    "stream": _stream(rebased=(("top", None),)),
    "stream to base": _stream(arguments={"base_node": "base"}, rebased=_TOP_ON_BASE),
    "stream to mid": _stream(arguments={"device": "mid"}, rebased=(("mid", None),)),
    "stream from a short base": _stream(base_size=SIZE // 2, rebased=(("top", None),)),
    "commit": _commit(arguments={"top_node": "mid"}, rebased=_TOP_ON_BASE),
    "commit to a short base": _commit(
        arguments={"top_node": "mid"}, base_size=SIZE // 2, rebased=_TOP_ON_BASE
    ),
    "active commit": _commit(arguments={"base_node": "base"}, pivots=True),
    "active commit to a short base": _commit(base_size=SIZE // 2, pivots=True),
    "mirror": _mirror(),
    "mirror with many parts at a time": _mirror(buf_size=0, granularity=4 * KIB),
    "mirror of holes": _mirror(vague=True),
    "mirror of small parts": _mirror(together=True, granularity=4 * KIB),
    "mirror top": _mirror(on_chain=True, sync="top"),
    "mirror none": _mirror(sync="none"),
    "mirror of a chain to an image": _mirror(on_chain=True, to_image=True),
    "write-blocking mirror": _mirror(copy_mode="write-blocking"),
    "write-blocking mirror of a chain": _mirror(on_chain=True, copy_mode="write-blocking"),
    "mirror top to an overlay": _mirror(
        on_chain=True, over="/mid", sync="top", granularity=4 * KIB
    ),
    "write-blocking mirror top to an overlay": _mirror(
        on_chain=True, over="/mid", sync="top", copy_mode="write-blocking"
    ),
    "backup full": _backup("full"),
    "backup of a chain to an image": _backup("full", on_chain=True, to_image=True),
    "backup top": _backup("top", on_chain=True),
    "backup none": _backup("none"),
    "backup by bitmap": _backup("bitmap", bitmap="b", bitmap_mode="on-success"),
    "backup by bitmap, always": _backup("bitmap", bitmap="b", bitmap_mode="always"),
    "backup by bitmap, never": _backup("bitmap", bitmap="b", bitmap_mode="never"),
}


@lru_cache
def image(clusters: frozenset[int], first: int, backing: str | None) -> bytes:
    """An image with these clusters, full of numbers from `first` on."""
    around = Around()
    with tempfile.TemporaryDirectory() as directory:
        empty = create(Path(directory) / "empty", SIZE, cluster_size=CLUSTER).read_bytes()
    disk = Disk(empty, around)
    node = open_on(disk, around)
    for number in sorted(clusters):
        data = bytes([first + number]) * CLUSTER
        perform(node.pwrite(number * CLUSTER, memoryview(data)))
    perform(node.do_change_backing_file(backing, None if backing is None else "memory"))
    perform(node.flush())
    perform(node.do_close())
    return bytes(disk.data)


def base_data() -> bytes:
    """What a disk without a format is full of."""
    numbers = (0 if n in HOLES else n + 1 for n in range(SIZE // CLUSTER))
    return b"".join(bytes([number]) * CLUSTER for number in numbers)

POLICIES = ("report", "ignore", "stop", "enospc")

LAZY = [name for name, kind in KINDS.items() if kind.sync == "none"]
"""They do nothing without a guest."""
