# SPDX-License-Identifier: MIT
"""What jobs learnt after QEMU 7.2, played on QEMU and on this machine.

A QEMU that does not know it says so, and this machine, as that release, in the same words.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from beside_qemu import Shared, Side
from image_checks import run
from job_chains import ends, images, target, three


def the_copy_mode_of_a_mirror_is_changed(m: Side) -> None:
    m.image("src.raw", "2M", "write -P 1 0 1M")
    m.node("src", "src.raw")
    target(m, "2M", "target.raw")
    m("blockdev-mirror", job_id="j", device="src", target="target", sync="full")
    m.status("j", "ready")
    m.jobs()
    change(m, copy_mode="background")
    change(m, copy_mode="write-blocking")
    change(m, copy_mode="write-blocking")
    change(m, copy_mode="background")
    m("job-pause", id="j")
    m.status("j", "standby")
    change(m, copy_mode="write-blocking")
    m("job-resume", id="j")
    m.status("j", "ready")
    m("job-complete", id="j")
    ends(m)


def change(m: Side, job: str = "j", kind: str = "mirror", **arguments: Any) -> None:
    m("block-job-change", id=job, type=kind, **arguments)


def changes_that_cannot_be(m: Side) -> None:
    three(m)
    target(m)
    m("blockdev-mirror", job_id="j", device="top", target="target", sync="top", speed=1)
    m.first_part()
    change(m, "k", copy_mode="write-blocking")
    change(m)
    change(m, copy_mode="x")
    change(m, kind="x", copy_mode="background")
    change(m, kind="stream", copy_mode="write-blocking")
    change(m, kind="stream")
    m("job-cancel", id="j")
    m.status("j", "null")
    m("block-commit", job_id="j", device="top")
    m.status("j", "ready")
    change(m, copy_mode="write-blocking")
    m.jobs()
    m("job-cancel", id="j")
    m.status("j", "null")
    m("block-stream", job_id="j", device="top", speed=1)
    change(m, copy_mode="write-blocking")
    m("job-cancel", id="j")
    ends(m)


def mirrors_that_copy_writes_at_once(m: Side) -> None:
    """From when on a mirror is actively synced."""
    m.image("src.raw", "2M", "write -P 1 0 1M")
    m.node("src", "src.raw")
    target(m, "2M", "target.raw")
    options = {"sync": "full", "copy_mode": "write-blocking", "filter_node_name": "f"}
    m("blockdev-mirror", job_id="j", device="src", target="target", **options)
    m.status("j", "ready")
    m.jobs()
    m.look()
    m("job-complete", id="j")
    ends(m)


def a_backup_that_discards_its_source(m: Side) -> None:
    for sync in ("full", "top"):
        m.image("src.raw", "2M", "write -P 1 0 1M", "write -P 2 1536k 64k")
        m.node("src", "src.raw", discard="unmap")
        target(m, "2M", "target.raw")
        arguments = {"device": "src", "target": "target", "sync": sync, "filter_node_name": "f"}
        m("blockdev-backup", job_id="j", discard_source=True, **arguments)
        if m.replies[-1][1] == {}:
            ends(m)
        m.remove_nodes()


def a_source_that_cannot_be_written_is_not_discarded(m: Side) -> None:
    m.image("src.raw", "2M", "write -P 1 0 1M")
    m.node("src", "src.raw", read_only=True)
    target(m, "2M", "target.raw")
    arguments = {"device": "src", "target": "target", "sync": "full"}
    m("blockdev-backup", job_id="j", discard_source=True, **arguments)


def backups_by_larger_clusters(m: Side) -> None:
    m.image("src.raw", "2M", "write -P 1 0 64k", "write -P 2 1M 64k")
    m.node("src", "src.raw")
    target(m, "2M", "target.raw")
    options = {"device": "src", "target": "target", "sync": "full", "filter_node_name": "f"}
    # QEMU aborts with 1 << 62, which its bitmaps' granularity has no room for.
    for size in (1, 3, 4096, 65537, 1 << 63, (1 << 64) - 1, "1"):
        m("blockdev-backup", job_id="j", x_perf={"min-cluster-size": size}, **options, speed=1)
        if m.replies[-1][1] == {}:
            m.look()
            m.first_part()
            m("job-cancel", id="j")
            m.status("j", "null")
    m("blockdev-backup", job_id="j", x_perf={"min-cluster-size": 1 << 19}, **options, speed=1)
    if m.replies[-1][1] == {}:
        m.look()
        m.first_part()
        m("job-cancel", id="j")
        m.status("j", "null")
    m("blockdev-backup", job_id="j", x_perf={"min-cluster-size": 1 << 18, "max-chunk": 1 << 17},
      **options)


def the_format_of_a_backing_file_without_one(m: Side) -> None:
    """Whose node is only a file's."""
    for command, arguments in (
        ("block-stream", {"device": "top", "base_node": "base"}),
        ("block-commit", {"device": "top", "top_node": "mid", "base_node": "base"}),
    ):
        for mask in (True, False):
            images(m)
            m("blockdev-add", node_name="base", driver="file", filename="base.raw", read_only=True)
            m.node("mid", "mid.qcow2", read_only=True, backing="base")
            m.node("top", "top.qcow2", backing="mid")
            m(command, job_id="j", backing_mask_protocol=mask, **arguments)
            if m.replies[-1][1] == {}:
                ends(m)
            m.remove_nodes()
            shown = run(["qemu-img", "info", "-U", "--output=json", "top.qcow2"], m.directory)
            m.replies.append(["format", json.loads(shown).get("backing-filename-format")])


def an_idle_image_with_zeroes_is_committed(m: Side) -> None:
    m.image("base.raw", "2M", "write -P 1 0 2M")
    zeroes = ("write -z 0 256k", "write -P 2 256k 128k", "write -z -u 1M 512k")
    m.image("mid.qcow2", "2M", *zeroes, below="base.raw")
    m.image("top.qcow2", "2M", "write -P 3 1M 64k", below="mid.qcow2")
    m.node("base", "base.raw", read_only=True)
    m.node("mid", "mid.qcow2", read_only=True, backing="base")
    m.node("top", "top.qcow2", backing="mid")
    m("block-commit", job_id="j", device="top", top_node="mid", base_node="base")
    ends(m)
    m.remove_nodes()
    shown = run(["qemu-img", "map", "-U", "--output=json", "-f", "raw", "base.raw"], m.directory)
    extents = [{key: e[key] for key in ("start", "length", "zero")} for e in json.loads(shown)]
    m.replies.append(["map", extents])


def commits_that_fail_at_a_base_that_was_read_only(m: Side) -> None:
    rule = [{"event": "write_aio", "errno": 28, "iotype": "write", "once": True}]
    m.image("base.raw", "2M", "write -P 1 0 2M")
    m.image("top.qcow2", "2M", "write -P 2 0 64k", below="base.raw")
    m.node("base", "base.raw", read_only=True, blkdebug=rule)
    m.node("top", "top.qcow2", backing="base")
    m("block-commit", job_id="j", device="top", on_error="report")
    ends(m)
    m("block-commit", job_id="j", device="top")
    m.status("j", "ready")
    m.look()
    m("block-job-cancel", device="j")
    ends(m)


CASES = [
    *(the_copy_mode_of_a_mirror_is_changed, changes_that_cannot_be),
    *(mirrors_that_copy_writes_at_once, a_backup_that_discards_its_source),
    *(a_source_that_cannot_be_written_is_not_discarded, backups_by_larger_clusters),
    *(the_format_of_a_backing_file_without_one, an_idle_image_with_zeroes_is_committed),
    commits_that_fail_at_a_base_that_was_read_only,
]


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_case(machines: Shared, case: Callable[[Side], None]) -> None:
    machines.play(case)
