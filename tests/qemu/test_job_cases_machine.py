# SPDX-License-Identifier: MIT
"""Jobs and the rest of a machine, on QEMU and on this one: guests, stops, snapshots, the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beside_qemu import Pair, Side
from job_chains import ends, images, target

DRIVE = (
    "-blockdev driver=raw,node-name=base,read-only=on,file.driver=file,file.filename=base.raw",
    "-blockdev driver=qcow2,node-name=mid,read-only=on,file.driver=file,"
    "file.filename=mid.qcow2,backing=base",
    "-drive if=none,id=drive0,node-name=top,driver=qcow2,file.driver=file,"
    "file.filename=top.qcow2,backing=mid",
    "-device virtio-blk-pci,drive=drive0,id=vd0",
)


def stream_with_the_names_of_the_drive(m: Side) -> None:
    m("block-stream", device="drive0", speed=1)
    m("block-stream", device="drive0")
    m("block-commit", device="drive0", job_id="k")
    m("block_resize", device="drive0", size=4 << 20)
    m("blockdev-snapshot-sync", device="drive0", snapshot_file="s.qcow2")
    m("drive-mirror", device="drive0", job_id="k", target="c.qcow2", sync="full")
    m("change-backing-file", device="drive0", image_node_name="top", backing_file="base.raw")
    m("block-job-set-speed", device="drive0", speed=0)
    ends(m, "drive0")


def reopened_below_a_stream(m: Side) -> None:
    """The links of a chain that is streamed, or committed, are frozen."""
    top = {"driver": "qcow2", "node-name": "top", "file": top_file(m)}
    mid = {"driver": "qcow2", "node-name": "mid", "read-only": True}
    m("block-stream", job_id="s", device="drive0", auto_finalize=False)
    m.status("s", "pending")
    m("blockdev-reopen", options=[{**top, "backing": "base"}])
    m("blockdev-reopen", options=[{**top, "backing": None}])
    m("job-cancel", id="s")
    m.status("s", "null")
    m("block-commit", job_id="c", device="drive0", top_node="mid", auto_finalize=False)
    m.status("c", "pending")
    m("blockdev-reopen", options=[{**top, "backing": "base"}])
    m("blockdev-reopen", options=[{**mid, "file": "mid", "backing": "base"}])
    m("job-cancel", id="c")
    ends(m, "c")


def top_file(m: Side) -> Any:
    return {"driver": "file", "filename": "top.qcow2"}


def guests_write_while_a_mirror_is_ready(m: Side) -> None:
    target(m)
    m("blockdev-mirror", job_id="j", device="drive0", target="target", sync="full")
    m.status("j", "ready")
    m.write("64k", "192k", 9)
    m.write("1M", "4k", 8)
    m("block-job-complete", device="j")
    m.status("j", "null")
    m.write("1536k", "64k", 7)
    m.look()


def guests_write_to_both(m: Side) -> None:
    target(m)
    m(
        "blockdev-mirror",
        **{"job_id": "j", "device": "drive0", "target": "target", "sync": "full"},
        copy_mode="write-blocking",
    )
    m.status("j", "ready")
    m.write("64k", "192k", 9)
    m("block-job-complete", device="j")
    ends(m)


def guests_write_into_a_backup(m: Side) -> None:
    """The copy is what was there before, and with sync=none only that."""
    target(m, name="all.qcow2")
    target(m, name="old.qcow2")
    m("blockdev-backup", job_id="o", device="drive0", target="old", sync="none")
    m.write("512k", "64k", 9)
    m("blockdev-backup", job_id="a", device="drive0", target="all", sync="full")
    m.write("0", "64k", 8)
    m("block-job-cancel", device="o")
    ends(m, "o")


def guests_write_during_an_active_commit(m: Side) -> None:
    m("block-commit", job_id="j", device="drive0", base_node="mid")
    m.status("j", "ready")
    m.write("256k", "64k", 6)
    m("block-job-complete", device="j")
    m.status("j", "null")
    m.write("320k", "64k", 5)
    m.look()


def snapshots_during_a_backup(m: Side) -> None:
    """An overlay comes between the backup's filter and the image; the copy is the same."""
    target(m)
    m("blockdev-backup", job_id="j", device="drive0", target="target", sync="full", speed=1)
    m(
        "blockdev-snapshot-sync",
        **{"node_name": "top", "snapshot_file": "s.qcow2", "snapshot_node_name": "s"},
    )
    m("block-job-set-speed", device="j", speed=0)
    m.status("j", "null")
    m.write("512k", "64k", 9)
    m.look()


def overlays_that_cannot_be(m: Side) -> None:
    target(m)
    m("blockdev-snapshot", node="target", overlay="target")
    m("blockdev-add", driver="blkdebug", node_name="f", image="target")
    m("blockdev-snapshot", node="f", overlay="target")
    m.look()


def a_job_that_is_over_blocks_its_nodes(m: Side) -> None:
    """Until somebody has taken notice of its end."""
    target(m)
    m("block-commit", job_id="c", device="drive0", top_node="mid", auto_dismiss=False)
    m.status("c", "concluded")
    m("blockdev-backup", job_id="k", device="target", target="base", sync="full")
    m("blockdev-backup", job_id="c", device="top", target="target", sync="full")
    m("blockdev-backup", job_id="c", device="top", target="base", sync="full")
    m("job-dismiss", id="c")
    m.look()


def the_machine_stops_and_goes_on(m: Side) -> None:
    target(m)
    m("blockdev-mirror", job_id="j", device="drive0", target="target", sync="full")
    m.status("j", "ready")
    m("stop")
    m("block-job-complete", device="j")
    m.status("j", "null")
    m("query-status")
    m("cont")
    m.look()


def the_end_of_a_machine_with_jobs(m: Side) -> None:
    """What is cancelled is told before the machine is gone."""
    target(m)
    m("blockdev-backup", job_id="b", device="drive0", target="target", sync="none")
    m.quit()


def guests_discard_during_jobs(m: Side) -> None:
    """Discards end at the filter of a job over the drive, not at one below it."""
    target(m)
    place = 0

    def discards_below(command: str, **arguments: Any) -> None:
        nonlocal place
        m(command, job_id="j", speed=1024, **arguments)
        m.discard(f"{place * 64}k", "64k")
        place += 1
        m("block-job-cancel", device="j", force=True)
        ends(m)

    for command in ("blockdev-backup", "blockdev-mirror"):
        discards_below(command, device="drive0", target="target", sync="none")
    copies = {"device": "drive0", "target": "target", "sync": "none"}
    discards_below("blockdev-mirror", copy_mode="write-blocking", **copies)
    discards_below("block-stream", device="drive0")
    discards_below("block-commit", device="drive0", top_node="mid", base_node="base")
    discards_below("block-commit", device="drive0")


CASES: list[Callable[[Side], None]] = [
    *(stream_with_the_names_of_the_drive, reopened_below_a_stream),
    *(guests_write_while_a_mirror_is_ready, guests_write_to_both, guests_write_into_a_backup),
    *(guests_write_during_an_active_commit, snapshots_during_a_backup),
    *(overlays_that_cannot_be, a_job_that_is_over_blocks_its_nodes),
    *(the_machine_stops_and_goes_on, the_end_of_a_machine_with_jobs),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_case(tmp_path: Path, case: Callable[[Side], None]) -> None:
    pair = Pair(tmp_path)
    pair.make(images)
    with pair.running(*DRIVE) as running:
        running.play(case)


@pytest.mark.slow
def test_guests_discard_during_jobs(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.make(images)
    nodes, drive = DRIVE[:2], DRIVE[2].replace("id=drive0", "id=drive0,discard=unmap")
    with pair.running(*nodes, drive, DRIVE[3]) as running:
        running.play(guests_discard_during_jobs)
