# SPDX-License-Identifier: MIT
"""Plays recordings with jobs: what their guest does, and what is in the images at the end.

The recorder's guest wrote through HMP's `qemu-io`; here an NBD client does.
What it wrote down after QEMU's exit is found out again in the same words.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbd

from hatchery import Hatched
from live import Qmp
from replay import Comparison, Player, Recording, Request

MODERN = "job-error-check=modern"
"""The recordings were made without the rule that QEMU has given up."""

WRITE = re.compile(r'qemu-io drive0 "write -P (0x\w+) (\w+) (\w+)"')

UNITS = {"": 1, "k": 1 << 10, "M": 1 << 20}

CLUSTER = 64 << 10

Extent = tuple[int, int, str, int]
"""In KiB where it starts and how long it is, data or zeroes, and how far down the chain."""


def size(text: str) -> int:
    return int(text.rstrip("kM")) * UNITS[text.lstrip("0123456789")]


class Sampled(Comparison):
    """Where a running job is, is a matter of the moment (tests/golden/README.md)."""

    def compare(self, path: str, recorded: Any, ours: Any) -> None:
        if isinstance(recorded, dict) and isinstance(ours, dict):
            if recorded.get("status") == ours.get("status") == "running":
                moment = dict.fromkeys({"busy", "offset", "current-progress"} & recorded.keys())
                recorded, ours = recorded | moment, ours | moment
        super().compare(path, recorded, ours)


class JobPlayer(Player):
    """A `human-monitor-command` is a request of the guest; its reply is the completion."""

    def __init__(
        self, recording: Recording, control: str, guest: nbd.NBD, side: Qmp, *, rests: bool
    ) -> None:
        super().__init__(recording, control, guest, rests=rests)
        self._side = side
        self._comparison = Sampled()
        self._writes: dict[int, Request] = {}

    def _command(self, entry: Mapping[str, Any]) -> None:
        message = entry["msg"]
        if message["execute"] != "human-monitor-command":
            super()._command(entry)
            return
        match = WRITE.fullmatch(message["arguments"]["command-line"])
        assert match is not None, message
        request = Request("write", size(match[2]), size(match[3]))
        request.buffer = bytearray([int(match[1], 16)]) * request.nbytes
        request.cookie = self._guest.aio_pwrite(request.buffer, request.offset)
        self._writes[message["id"]] = request

    def _poll(self, entry: Mapping[str, Any]) -> None:
        # While a job waits to be finalized its drive is drained: it does not answer.
        if self._requests:
            super()._poll(entry)
        self._side.wait_for(self._has_caught_up)

    def _has_caught_up(self) -> bool:
        """Whether ready jobs have found what guests wrote: the recorder gave them the time.

        What they have found is in their progress before it leaves the bitmap.
        """
        nodes = self._side("query-named-block-nodes", flat=True)
        dirty = any(
            bitmap["count"] and (bitmap["recording"] or node["drv"] == "mirror_top")
            for node in nodes
            for bitmap in node.get("dirty-bitmaps", [])
            if "name" not in bitmap
        )
        ready = [job for job in self._side("query-block-jobs") if job["status"] == "ready"]
        return not ready or not (dirty or any(job["offset"] != job["len"] for job in ready))

    def _response(self, entry: Mapping[str, Any]) -> None:
        request = self._writes.get(entry["msg"].get("id"))
        if request is None:
            super()._response(entry)
        else:
            self._wait(lambda: request.answered(self._guest), "the end of a guest's write")
            self._comparison.compare("guest.write", "OK", request.status)
            self._side.wait_for(self._has_caught_up)


def play_with_jobs(
    recording: Recording, directory: Path, *, rests: bool = True
) -> dict[str, tuple[Any, Any]]:
    """Play it with everything in `directory`; what was different, by path."""
    recording.prepare(directory)
    machine = Hatched(directory, *recording.keys(), MODERN)
    with machine as live, live.guest() as guest, live.qmp() as side:
        player = JobPlayer(recording, live.control, guest, side, rests=rests)
        try:
            found = player.play()
        finally:
            player.close()
    for note in notes(recording):
        ours = found_out_again(note, directory)
        if ours != note:
            found[f"note.{note[:40]}"] = (note, ours)
    return found


def notes(recording: Recording) -> Iterator[str]:
    for entry in recording.entries:
        if entry["kind"] == "note" and entry["text"].startswith("after exit"):
            yield entry["text"]


def found_out_again(note: str, directory: Path) -> str:
    """What the note says, of the images in `directory`."""
    if match := re.match(r"after exit: cmp (\S+) (\S+) -> ", note):
        done = subprocess.run(["cmp", *match.groups()], cwd=directory, capture_output=True)
        return match[0] + (done.stdout.decode().strip() or "identical")
    if match := re.match(r"after exit: qemu-img info (\S+) backing-filename=", note):
        return match[0] + repr(info(directory / match[1]).get("backing-filename"))
    if note.startswith("after exit: mid.qcow2 backing="):
        names = ("mid.qcow2", "top.qcow2")
        texts = [f"{n} backing={info(directory / n).get('backing-filename')!r}" for n in names]
        base = (directory / "base.raw").read_bytes()
        found = " ".join(f"{base[at]:02x}" for at in (0, CLUSTER, 1 << 20))
        return f"after exit: {'; '.join(texts)}; base.raw at 0/64k/1M: {found}"
    if note.startswith("after exit: 64k clusters differing"):
        return differing_clusters(directory)
    match = re.match(r"after exit \(KiB start,len,d=data z=zero,depth\): (\S+) ", note)
    assert match is not None, note
    name = match[1]
    backing = info(directory / name).get("backing-filename")
    recorded = ast.literal_eval(note.partition(" map=")[2])
    ours = allocation(directory / name)
    extents = recorded if ours == joined(recorded) else ours
    return f"{match[0]}backing={backing!r} map={extents}"


def differing_clusters(directory: Path) -> str:
    one, other = ((directory / name).read_bytes() for name in ("src.raw", "dst.raw"))
    starts = range(0, len(one), CLUSTER)
    differing = [at // CLUSTER for at in starts if one[at:][:CLUSTER] != other[at:][:CLUSTER]]
    found = f"src[1M]={one[1 << 20]:02x} dst[1M]={other[1 << 20]:02x}"
    return (
        f"after exit: 64k clusters differing src vs dst: {differing};"
        f" {found} src[0]={one[0]:02x} dst[0]={other[0]:02x}"
    )


def info(image: Path) -> dict[str, Any]:
    command = shlex.split("qemu-img info --output=json -U") + [str(image)]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, cwd=image.parent, capture_output=True, check=True).stdout
    )
    return found


def allocation(image: Path) -> list[Extent]:
    """What is where in an image."""
    command = ["qemu-img", "map", "--output=json", image.name]
    done = subprocess.run(command, cwd=image.parent, capture_output=True, check=True)
    extents = json.loads(done.stdout)
    return joined(
        [
            (e["start"] >> 10, e["length"] >> 10, "z" if e["zero"] else "d", e["depth"])
            for e in extents
        ]
    )


def joined(extents: list[Extent]) -> list[Extent]:
    """Neighbours of one kind put together: which of them was written first is chance."""
    found: list[Extent] = []
    for start, length, what, depth in extents:
        if found and found[-1][2:] == (what, depth):
            start, length = found[-1][0], found.pop()[1] + length
        found.append((start, length, what, depth))
    return found
