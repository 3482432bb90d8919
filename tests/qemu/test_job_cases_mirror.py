# SPDX-License-Identifier: MIT
"""QEMU's published cases of mirroring in our own words, played on QEMU and on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from beside_qemu import Shared, Side
from job_chains import ends, target, three


def raw(m: Side, **more: Any) -> None:
    """A source without a backing file."""
    m.image("src.raw", "4M", "write -P 1 0 1M", "write -P 2 3M 512k")
    m.node("src", "src.raw", **more)


def mirror(m: Side, device: str = "src", **arguments: Any) -> None:
    options: dict[str, Any] = {"sync": "full", "target": "target", "job_id": "j", **arguments}
    m("blockdev-mirror", device=device, **options)


def completed(m: Side) -> None:
    m.status("j", "ready")
    m.jobs()
    m("block-job-complete", device="j")
    ends(m)


def mirror_and_change_over(m: Side) -> None:
    raw(m)
    target(m, "4M", "target.raw")
    mirror(m)
    completed(m)


def mirror_and_stay(m: Side) -> None:
    raw(m)
    target(m, "4M", "target.raw")
    mirror(m)
    m.status("j", "ready")
    m("block-job-cancel", device="j")
    ends(m)


def mirror_cancelled(m: Side) -> None:
    raw(m)
    target(m, "4M", "target.raw")
    mirror(m, speed=1)
    m.first_part()
    m("block-job-complete", device="j")
    m("block-job-cancel", device="j")
    ends(m)


def mirror_cancelled_by_force(m: Side) -> None:
    raw(m)
    target(m, "4M", "target.raw")
    mirror(m, auto_dismiss=False)
    m.status("j", "ready")
    m("block-job-cancel", device="j", force=True)
    m.status("j", "concluded")
    m("query-jobs")
    m("block-job-cancel", device="j")
    m("job-dismiss", id="j")
    ends(m)


def mirror_paused_when_ready(m: Side) -> None:
    raw(m)
    target(m, "4M", "target.raw")
    mirror(m)
    m.status("j", "ready")
    m("block-job-pause", device="j")
    m.status("j", "standby")
    m("block-job-complete", device="j")
    m("block-job-cancel", device="j")
    m.jobs()
    m("block-job-resume", device="j")
    ends(m)


def a_small_buffer(m: Side) -> None:
    three(m)
    target(m)
    mirror(m, "top", buf_size=65536)
    completed(m)


def a_buffer_smaller_than_a_granule(m: Side) -> None:
    three(m)
    target(m)
    mirror(m, "top", buf_size=8192, granularity=16384)
    completed(m)


def a_large_granularity(m: Side) -> None:
    three(m)
    target(m)
    mirror(m, "top", granularity=1 << 20)
    completed(m)


def a_small_granularity(m: Side) -> None:
    raw(m)
    target(m, "4M", "target.raw")
    mirror(m, granularity=8192)
    completed(m)


def granules_that_begin_with_a_hole(m: Side) -> None:
    """A granule is not zero because its beginning is."""
    m.image("src.qcow2", "2M", "write -P 1 4k 4k", "write -P 2 1028k 4k", cluster_size="4k")
    m.node("src", "src.qcow2")
    target(m)
    mirror(m)
    completed(m)


def a_target_with_large_clusters(m: Side) -> None:
    three(m)
    target(m, cluster_size="1M")
    mirror(m, "top")
    completed(m)


def a_target_with_large_clusters_over_a_backing_file(m: Side) -> None:
    """Whole clusters are copied as long as the target cannot fill them from below."""
    three(m)
    m.image("target.qcow2", "2M", below="mid.qcow2", cluster_size="1M")
    m(
        "drive-mirror",
        **{"job_id": "j", "device": "top", "target": "target.qcow2", "format": "qcow2"},
        **{"mode": "existing", "sync": "top", "node_name": "t", "granularity": 65536},
    )
    completed(m)


def sizes_that_differ(m: Side) -> None:
    raw(m)
    for size in ("3M", "5M"):
        m.image("target.raw", size)
        m.node("target", "target.raw")
        mirror(m)
        ends(m)
        m("blockdev-del", node_name="target")


def mirror_what_is_not_there(m: Side) -> None:
    raw(m)
    mirror(m, "nothing")
    mirror(m, target="nothing")
    mirror(m, target="src")
    arguments = {"job_id": "j", "device": "src", "sync": "full"}
    m("drive-mirror", **arguments, target="missing.raw", mode="existing", format="raw")
    m("drive-mirror", **arguments, target="no/where.raw", format="raw")
    m("drive-mirror", **arguments, target="target.img", format="nothing")
    m("drive-mirror", **{**arguments, "device": "nothing"}, target="target.img")
    target(m, "4M", "target.raw")
    m("blockdev-mirror", device="src", target="target", sync="full")
    for options in (
        {"granularity": 511},
        {"granularity": 128 << 20},
        {"granularity": 3 << 10},
        {"buf_size": -1},
        {"speed": -1},
        {"sync": "incremental"},
        {"replaces": "nothing"},
        {"replaces": "target"},
        {"filter_node_name": "src"},
        {"filter_node_name": "9"},
        {"copy_mode": "nothing"},
    ):
        mirror(m, **options)
    m.look()


def mirror_only_the_top(m: Side) -> None:
    three(m)
    m.image("target.qcow2", "2M", below="mid.qcow2")
    m.node("target", "target.qcow2", backing="mid")
    mirror(m, "top", sync="top")
    completed(m)


def mirror_nothing_but_writes(m: Side) -> None:
    three(m)
    m.image("target.qcow2", "2M", below="top.qcow2")
    m.node("target", "target.qcow2", backing=None)
    mirror(m, "top", sync="none")
    completed(m)


def mirror_into_a_new_image(m: Side, sync: str, node: str = "top", **more: Any) -> None:
    three(m)
    m(
        "drive-mirror",
        **{"job_id": "j", "device": node, "target": "new.qcow2", "format": "qcow2"},
        **{"sync": sync, "node_name": "new", **more},
    )
    m.made.append("new.qcow2")
    m.status("j", "ready")
    m.look()
    m("block-job-complete", device="j")
    ends(m)


def a_new_image_of_all(m: Side) -> None:
    mirror_into_a_new_image(m, "full")


def a_new_image_of_the_top(m: Side) -> None:
    mirror_into_a_new_image(m, "top")


def a_new_image_of_nothing(m: Side) -> None:
    mirror_into_a_new_image(m, "none")


def a_new_image_of_a_source_without_backing(m: Side) -> None:
    m.image("base.raw", "2M", "write -P 1 0 2M")
    m.node("base", "base.raw")
    m(
        "drive-mirror",
        **{"job_id": "j", "device": "base", "target": "new.qcow2", "format": "qcow2"},
        **{"sync": "top", "node_name": "new"},
    )
    m.made.append("new.qcow2")
    completed(m)


def mirror_to_an_image_that_is_there(m: Side) -> None:
    three(m)
    m.image("new.qcow2", "2M", "write -P 9 0 2M")
    m(
        "drive-mirror",
        **{"job_id": "j", "device": "top", "target": "new.qcow2", "mode": "existing"},
        **{"sync": "full", "node_name": "new"},
    )
    completed(m)


def mirror_to_a_probed_image_over_another(m: Side) -> None:
    """What is below the target is opened in the end only, with or without a format."""
    three(m)
    m.image("new.qcow2", "2M", below="base.raw")
    m(
        "drive-mirror",
        **{"job_id": "j", "device": "top", "target": "new.qcow2", "mode": "existing"},
        **{"sync": "top", "node_name": "new"},
    )
    m.status("j", "ready")
    m.look()
    m.count_nodes()
    m("block-job-complete", device="j")
    ends(m)


def mirror_to_a_probed_image_over_nothing_yet(m: Side) -> None:
    """Nobody misses it as long as the job is under way."""
    three(m)
    m.img("create", "-q", "-u", "-f", "qcow2", "-b", "later.raw", "-F", "raw", "new.qcow2", "2M")
    m(
        "drive-mirror",
        **{"job_id": "j", "device": "top", "target": "new.qcow2", "mode": "existing"},
        **{"sync": "full", "node_name": "new"},
    )
    m.status("j", "ready")
    m.count_nodes()
    m("block-job-cancel", device="j")
    m.wait("BLOCK_JOB_COMPLETED")
    m.status("j", "null")
    m.look()


def mirror_that_replaces_another_node(m: Side) -> None:
    """The source is a filter; what is replaced is the image under it."""
    raw(m)
    m("blockdev-add", driver="blkdebug", node_name="filter", image="src")
    target(m, "4M", "target.raw")
    mirror(m, "filter", replaces="src")
    completed(m)


def mirror_that_replaces_what_shows_something_else(m: Side) -> None:
    three(m)
    target(m)
    mirror(m, "top", replaces="mid")
    mirror(m, "top", replaces="top-file")
    m(
        "drive-mirror",
        **{"job_id": "j", "device": "top", "target": "new.qcow2", "format": "qcow2"},
        **{"sync": "full", "replaces": "top"},
    )
    m.look()


def what_is_replaced_is_gone(m: Side) -> None:
    raw(m)
    m("blockdev-add", driver="blkdebug", node_name="filter", image="src")
    target(m, "4M", "target.raw")
    mirror(m, "filter", replaces="src", auto_finalize=False)
    m.status("j", "ready")
    m("blockdev-del", node_name="src")
    m("block-job-complete", device="j")
    m.status("j", "pending")
    m("blockdev-del", node_name="src")
    m.look()
    m("job-finalize", id="j")
    ends(m)


def nodes_in_use(m: Side) -> None:
    """What commands may not do with the nodes of a running mirror."""
    three(m)
    target(m)
    m.image("other.qcow2")
    m.node("other", "other.qcow2")
    m("blockdev-add", driver="qcow2", node_name="over", file="other-file", backing=None)
    mirror(m, "top")
    m.status("j", "ready")
    for node in ("top", "target", "mid"):
        m("blockdev-del", node_name=node)
        m("blockdev-snapshot", node=node, overlay="other")
        m("change-backing-file", device=node, image_node_name=node, backing_file="x")
        m("block-commit", job_id="k", device=node)
        m("blockdev-mirror", job_id="k", device=node, target="other", sync="full")
        m("blockdev-mirror", job_id="k", device="other", target=node, sync="full")
        if node != "mid":
            m("block-stream", job_id="k", device=node)
            m("blockdev-backup", job_id="k", device=node, target="other", sync="full")
            m("drive-backup", job_id="k", device=node, target="new", sync="full")
        m("blockdev-backup", job_id="k", device="other", target=node, sync="full")
        m("blockdev-snapshot-sync", node_name=node, snapshot_file="s", snapshot_node_name="s")
        m("block-dirty-bitmap-add", node=node, name="b")
        m("block-dirty-bitmap-remove", node=node, name="b")
    m.look()
    m("job-cancel", id="j")
    ends(m)


def reopened_meanwhile(m: Side) -> None:
    three(m)
    target(m)
    mirror(m, "top", speed=1)
    m.first_part()
    top = {"driver": "qcow2", "node-name": "top", "file": "top-file"}
    m("blockdev-reopen", options=[{**top, "backing": "mid"}])
    m("blockdev-reopen", options=[{**top, "backing": None}])
    m("blockdev-reopen", options=[{**top, "backing": "mid", "read-only": True}])
    m.look()
    m("job-cancel", id="j")
    ends(m)


def two_mirrors_of_one_node(m: Side) -> None:
    raw(m)
    target(m, "4M", "target.raw")
    m.image("second.raw", "4M")
    m.node("second", "second.raw")
    mirror(m, filter_node_name="f")
    m.status("j", "ready")
    m("blockdev-mirror", job_id="k", device="src", target="second", sync="full")
    m("blockdev-mirror", job_id="k", device="f", target="second", sync="full")
    m.look()
    m("job-cancel", id="j")
    m.status("j", "null")
    m.look()


def pending(m: Side) -> None:
    """Finished, but for what the client wants to say first."""
    raw(m)
    target(m, "4M", "target.raw")
    mirror(m, auto_finalize=False, auto_dismiss=False)
    m.status("j", "ready")
    m("job-complete", id="j")
    m.status("j", "pending")
    m("job-complete", id="j")
    m("job-pause", id="j")
    m("job-finalize", id="j")
    m.status("j", "concluded")
    m("job-finalize", id="j")
    m("job-dismiss", id="j")
    m("job-dismiss", id="j")
    ends(m)


def source_fails(m: Side, policy: str, **rule: Any) -> None:
    rules = [{"event": "none", "once": True, "iotype": "read", "errno": 5, **rule}]
    raw(m, blkdebug=[{**rules[0], "sector": 0}])
    target(m, "4M", "target.raw")
    mirror(m, on_source_error=policy)


def reading_is_ignored(m: Side) -> None:
    source_fails(m, "ignore", errno=28)
    m.status("j", "ready")
    m("block-job-complete", device="j")
    m.status("j", "null")


def reading_stops(m: Side) -> None:
    source_fails(m, "stop")
    m.status("j", "paused")
    m.jobs()
    m("block-job-resume", device="j")
    m.status("j", "ready")
    m("block-job-complete", device="j")
    m.status("j", "null")


def reading_is_reported(m: Side) -> None:
    source_fails(m, "enospc")
    m.status("j", "null")


def writing_to_large_clusters_stops(m: Side) -> None:
    three(m)
    m.image("target.qcow2", "2M", cluster_size="1M")
    rule = {"event": "none", "iotype": "write", "sector": 12288, "once": True, "errno": 28}
    m.node("target", "target.qcow2", blkdebug=[rule])
    mirror(m, "top", on_target_error="enospc")
    m.status("j", "paused")
    m("block-job-resume", device="j")
    m.status("j", "ready")
    m("block-job-cancel", device="j")
    m.status("j", "null")


CASES = [
    *(mirror_and_change_over, mirror_and_stay, mirror_cancelled, mirror_cancelled_by_force),
    *(mirror_paused_when_ready, a_small_buffer, a_buffer_smaller_than_a_granule),
    granules_that_begin_with_a_hole,
    *(a_large_granularity, a_small_granularity, a_target_with_large_clusters),
    *(a_target_with_large_clusters_over_a_backing_file, sizes_that_differ),
    *(mirror_what_is_not_there, mirror_only_the_top, mirror_nothing_but_writes),
    *(a_new_image_of_all, a_new_image_of_the_top, a_new_image_of_nothing),
    *(a_new_image_of_a_source_without_backing, mirror_to_an_image_that_is_there),
    *(mirror_to_a_probed_image_over_another, mirror_to_a_probed_image_over_nothing_yet),
    *(mirror_that_replaces_another_node, mirror_that_replaces_what_shows_something_else),
    *(what_is_replaced_is_gone, nodes_in_use, reopened_meanwhile, two_mirrors_of_one_node),
    *(pending, reading_is_ignored, reading_stops, reading_is_reported),
    writing_to_large_clusters_stops,
]


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_case(machines: Shared, case: Callable[[Side], None]) -> None:
    machines.play(case)
