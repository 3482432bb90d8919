# SPDX-License-Identifier: MIT
"""blkdebug's events below a qcow2 image: the same requests fail as in QEMU.

qemu-io does not tell of a flush that fails, so that these are left out.
"""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from blockcore.nodes.drivers.blkdebug import BlkdebugNode
from blockcore.qapi.names import BlkdebugEvent, QmpError
from qcow2_images import Around, close, create, open_backing, open_file, open_on, options, qemu_io
from rules import fail
from sim import perform

pytestmark = pytest.mark.both_ways

Request = tuple[str, int, int]
"""What, where, how much."""

KIB = 1024

CLUSTERS_OF_4K: tuple[Request, ...] = (
    ("read", 0, 4096),
    ("write", 1000, 4096),
    ("flush", 0, 0),
    ("read", 0, 65536),
    ("write", 1000, 4096),
    ("write", 5 << 20, 4096),
    ("read", 7 << 20, 4096),
    ("flush", 0, 0),
    ("read", 9 << 20, 4096),
)

CLUSTERS_OF_1K: tuple[Request, ...] = (
    ("write", 0, 16 * KIB),
    ("discard", 0, 8 * KIB),
    ("read", 8 * KIB, 8 * KIB),
    ("flush", 0, 0),
    ("write", 1 << 20, 3000),
    ("write", 64 * KIB, 512),
    ("flush", 0, 0),
    ("write -z", 0, 16 * KIB),
    ("write -z -u", 0, 16 * KIB),
    ("read", 0, 16 * KIB),
    ("flush", 0, 0),
)

OPENING = BlkdebugEvent.REFTABLE_LOAD
"""Then the image cannot be opened."""

EVENTS = tuple(
    event.value for event in BlkdebugEvent if event not in (BlkdebugEvent.NONE, OPENING)
)

LATER = "cluster_free"
"""Freed clusters are discarded below at the next flush, in QEMU at once: it meets the rule."""


def make(path: Path) -> Path:
    """Compressed data at 7 MiB, plain data at 9 MiB, a backing file."""
    (path.parent / "base").write_bytes(b"\7" * (1 << 20))
    create(path, "16M", "-b", "base", "-F", "raw", cluster_size=4096)
    qemu_io(path, "write -c -P 1 7M 64k", "write -P 2 9M 64k")
    return path


def of_qemu(path: Path, event: str, requests: tuple[Request, ...]) -> list[bool]:
    """Which of the requests succeed."""
    node = {
        "driver": "qcow2",
        "file": {
            "driver": "blkdebug",
            "image": {"driver": "file", "filename": str(path)},
            "inject-error": [{"event": event, "errno": 28, "once": True, "immediately": False}],
        },
    }
    commands = [
        text
        for kind, offset, length in requests
        for text in ("-c", f"{kind} {offset} {length}" if length else kind)
    ]
    done = subprocess.run(
        ["qemu-io", "-t", "writeback", "-d", "unmap", *commands, "json:" + json.dumps(node)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = [
        line
        for line in done.stdout.splitlines()
        if "ops/sec" not in line and "Failed to flush" not in line
    ]
    assert len(lines) == sum(kind != "flush" for kind, _, _ in requests), done.stdout
    return [" failed: No space left" not in line for line in lines]


def of_ours(path: Path, event: str, requests: tuple[Request, ...]) -> list[bool]:
    around = Around()
    rule = fail(id="r", event=BlkdebugEvent(event), errno=errno.ENOSPC, count=1)
    blkdebug = BlkdebugNode(options("rules"), around, open_file(path, around), rules=[rule])
    perform(blkdebug.do_open())
    base = path.parent / "base"
    node = open_on(blkdebug, around, open_backing(base, around) if base.exists() else None)
    outcomes = []
    for kind, offset, length in requests:
        coro: Any
        if kind == "read":
            coro = node.pread(offset, memoryview(bytearray(length)))
        elif kind == "write":
            coro = node.pwrite(offset, memoryview(b"\xcd" * length))
        elif kind == "discard":
            coro = node.discard(offset, length)
        elif kind.startswith("write -z"):
            coro = node.zero(offset, length, may_unmap="-u" in kind)
        else:
            coro = node.flush()
        try:
            perform(coro)
        except OSError as exc:
            assert exc.errno == errno.ENOSPC
            failed = True
        else:
            failed = False
        if kind != "flush":
            outcomes.append(not failed)
    close(node)
    return outcomes


@pytest.mark.parametrize("event", EVENTS)
def test_the_same_requests_fail(tmp_path: Path, event: str) -> None:
    (tmp_path / "theirs").mkdir()
    ours, theirs = make(tmp_path / "ours"), tmp_path / "theirs" / "image"
    shutil.copy(tmp_path / "base", theirs.parent / "base")
    shutil.copy(ours, theirs)
    assert of_ours(ours, event, CLUSTERS_OF_4K) == of_qemu(theirs, event, CLUSTERS_OF_4K)


@pytest.mark.parametrize("event", EVENTS)
def test_small_clusters(tmp_path: Path, event: str) -> None:
    """New tables and refcounts all the time, discards and zeroes."""
    ours = create(tmp_path / "ours", "32M", cluster_size=1024)
    theirs = tmp_path / "theirs"
    shutil.copy(ours, theirs)
    found = of_ours(ours, event, CLUSTERS_OF_1K), of_qemu(theirs, event, CLUSTERS_OF_1K)
    if event == LATER:
        assert found[0].index(False) > 1, "the discard itself succeeds"
        return
    assert found[0] == found[1]


def test_the_event_of_opening(tmp_path: Path) -> None:
    path = create(tmp_path / "image", "1M")
    with pytest.raises(QmpError, match="^Could not initialize refcount handling: No space left"):
        of_ours(path, OPENING.value, ())
    with pytest.raises(AssertionError, match="Could not initialize refcount handling"):
        of_qemu(path, OPENING.value, ())


def test_a_write_with_fua_does_not_announce_its_own_flush(tmp_path: Path) -> None:
    """As in QEMU, where it counts as written only when it is over: the next flush does."""
    around = Around()
    path = create(tmp_path / "image", "1M", cluster_size=1024)
    blkdebug = BlkdebugNode(options("rules"), around, open_file(path, around))
    perform(blkdebug.do_open())
    node = open_on(blkdebug, around)
    event = BlkdebugEvent.FLUSH_TO_DISK
    blkdebug.injector().add(fail(id="r", event=event, errno=errno.ENOSPC, count=1))
    for _ in range(2):
        perform(node.pwrite(0, memoryview(b"1" * 4096), fua=True))
    perform(node.flush())
    with pytest.raises(OSError) as caught:
        perform(node.pread(0, memoryview(bytearray(512))))
    assert caught.value.errno == errno.ENOSPC
    close(node)
