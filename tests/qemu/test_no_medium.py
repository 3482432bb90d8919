# SPDX-License-Identifier: MIT
"""What commands say of a drive whose medium is gone, on QEMU and on this machine.

An image that is found corrupt under its guest has none any more.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import nbd
import pytest

from beside_qemu import Images, Pair, Side, compare
from qcow2_images import damage

DRIVE = (
    "-blockdev driver=raw,node-name=base,read-only=on,file.driver=file,file.filename=base.raw",
    "-drive if=none,id=drive0,node-name=top,driver=qcow2,file.driver=file,"
    "file.filename=top.qcow2,file.node-name=file,backing=base,rerror=report,werror=report",
    "-device virtio-blk-pci,drive=drive0,id=vd0",
    "-blockdev driver=null-co,node-name=other,size=2097152",
)

LIMITS = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)


def images(m: Images) -> None:
    m.image("base.raw", "2M", "write -P 1 0 2M")
    m.image("top.qcow2", "2M", "write -P 3 0 256k", below="base.raw")
    damage(m.directory / "top.qcow2", 3)


def lose_medium(m: Side) -> None:
    with contextlib.suppress(nbd.Error):
        m.write("192k", "4k", 9)
    m.ask("query-status")
    m.events.clear()


COMMANDS: list[tuple[str, dict[str, Any]]] = [
    ("block-stream", {"device": "drive0", "job_id": "j"}),
    ("block-stream", {"device": "top", "job_id": "j"}),
    ("block-stream", {"device": "drive0"}),
    ("block-stream", {"device": "drive0", "job_id": "j", "base": "base.raw"}),
    ("block-stream", {"device": "drive0", "job_id": "j", "base_node": "base"}),
    ("block-stream", {"device": "drive0", "job_id": "j", "bottom": "base"}),
    ("block-stream", {"device": "drive0", "job_id": "j", "bottom": "top"}),
    ("block-stream", {"device": "drive0", "job_id": "j", "backing_file": "x"}),
    ("block-commit", {"device": "drive0", "job_id": "j"}),
    ("block-commit", {"device": "top", "job_id": "j"}),
    ("block-commit", {"device": "drive0", "job_id": "j", "base_node": "base"}),
    ("block-commit", {"device": "drive0", "job_id": "j", "top_node": "top", "base_node": "base"}),
    ("block-commit", {"device": "drive0", "job_id": "j", "top": "none"}),
    ("drive-mirror", {"device": "drive0", "job_id": "j", "target": "t", "sync": "full"}),
    ("drive-mirror", {"device": "top", "job_id": "j", "target": "t", "sync": "top"}),
    ("drive-backup", {"device": "drive0", "job_id": "j", "target": "t", "sync": "full"}),
    ("drive-backup", {"device": "top", "job_id": "j", "target": "t", "sync": "none"}),
    ("blockdev-mirror", {"device": "drive0", "job_id": "j", "target": "other", "sync": "full"}),
    ("blockdev-mirror", {"device": "other", "job_id": "j", "target": "top", "sync": "full"}),
    ("blockdev-backup", {"device": "drive0", "job_id": "j", "target": "other", "sync": "full"}),
    ("blockdev-backup", {"device": "other", "job_id": "j", "target": "top", "sync": "full"}),
    ("block_resize", {"device": "drive0", "size": 4 << 20}),
    ("block_resize", {"node_name": "top", "size": 4 << 20}),
    ("block-set-write-threshold", {"node_name": "top", "write_threshold": 1}),
    ("blockdev-snapshot-sync", {"device": "drive0", "snapshot_file": "s"}),
    ("blockdev-snapshot", {"node": "top", "overlay": "other"}),
    ("blockdev-snapshot", {"node": "other", "overlay": "top"}),
    ("change-backing-file", {"device": "drive0", "image_node_name": "top", "backing_file": "x"}),
    ("block-dirty-bitmap-add", {"node": "drive0", "name": "b"}),
    ("block-dirty-bitmap-add", {"node": "drive0", "name": "b", "granularity": 65536}),
    ("block-dirty-bitmap-add", {"node": "drive0", "name": "b", "persistent": True}),
    ("block-dirty-bitmap-add", {"node": "top", "name": "b", "persistent": True}),
    ("block-dirty-bitmap-clear", {"node": "drive0", "name": "b"}),
    ("block-dirty-bitmap-enable", {"node": "drive0", "name": "old"}),
    ("block-dirty-bitmap-disable", {"node": "drive0", "name": "old"}),
    ("block-dirty-bitmap-merge", {"node": "drive0", "target": "old", "bitmaps": ["old"]}),
    ("block-dirty-bitmap-clear", {"node": "drive0", "name": "old"}),
    ("x-debug-block-dirty-bitmap-sha256", {"node": "drive0", "name": "old"}),
    ("block-dirty-bitmap-remove", {"node": "drive0", "name": "old"}),
    ("blockdev-del", {"node_name": "top"}),
    ("blockdev-add", {"driver": "raw", "node_name": "r", "file": "top"}),
    ("query-named-block-nodes", {}),
]


def case(m: Side) -> None:
    m("block-dirty-bitmap-add", node="drive0", name="old")
    lose_medium(m)
    for command, arguments in COMMANDS:
        m(command, **arguments)
    m.execute("block_set_io_throttle", {"device": "drive0", **LIMITS})
    m.execute("block_set_io_throttle", {"id": "vd0", **LIMITS, "iops": 100})


@pytest.mark.slow
def test_the_words(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.make(images)
    with pair.running(*DRIVE) as running:
        theirs, ours = running.sides()
        for side in (theirs, ours):
            case(side)
        compare(theirs, ours)
