# SPDX-License-Identifier: MIT
"""QEMU's published cases of backups in our own words, played on QEMU and on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from beside_qemu import Shared, Side
from job_chains import ends, target, three


def source(m: Side, **more: Any) -> None:
    m.image("src.qcow2", "2M", "write -P 1 0 1M", "write -P 2 1536k 128k")
    m.node("src", "src.qcow2", **more)


def backup(m: Side, device: str = "src", **arguments: Any) -> None:
    options: dict[str, Any] = {"sync": "full", "target": "target", "job_id": "j", **arguments}
    m("blockdev-backup", device=device, **options)


def backup_of_all(m: Side) -> None:
    source(m)
    target(m)
    backup(m)
    ends(m)


def backup_of_the_top(m: Side) -> None:
    three(m)
    m.image("target.qcow2", "2M", below="mid.qcow2")
    m.node("target", "target.qcow2", backing="mid")
    backup(m, "top", sync="top")
    ends(m)


def backup_of_nothing(m: Side) -> None:
    source(m)
    target(m)
    backup(m, sync="none", filter_node_name="f")
    m.look()
    m("block-job-complete", device="j")
    m("block-job-cancel", device="j")
    ends(m)


def backup_cancelled(m: Side) -> None:
    source(m)
    target(m)
    backup(m, speed=1)
    m.jobs()
    m.first_part()
    m("block-job-cancel", device="j")
    ends(m)


def backup_paused(m: Side) -> None:
    source(m)
    target(m)
    backup(m, speed=1)
    for status in ("paused", "running"):
        m.status("j", status)
    m("block-job-pause", device="j")
    m.status("j", "paused")
    m("block-job-cancel", device="j")
    m("block-job-resume", device="j")
    m("block-job-set-speed", device="j", speed=0)
    ends(m)


def backups_into_new_images(m: Side) -> None:
    three(m)
    for sync in ("full", "top", "none"):
        name = f"{sync}-copy.qcow2"
        m("drive-backup", job_id="j", device="top", target=name, sync=sync, format="qcow2")
        m.made.append(name)
        if sync == "none":
            m.look()
            m("block-job-cancel", device="j")
        ends(m)


def backup_to_an_image_that_is_there(m: Side) -> None:
    source(m)
    m.image("there.qcow2", "2M", "write -P 9 0 2M")
    m(
        "drive-backup",
        **{"job_id": "j", "device": "src", "target": "there.qcow2", "mode": "existing"},
        **{"sync": "full", "format": "qcow2"},
    )
    ends(m)


def backups_to_probed_images_over_others(m: Side) -> None:
    """Nothing is left of them, and of what was below them."""
    three(m)
    m.image("there.qcow2", "2M", below="mid.qcow2")
    m.count_nodes()
    for sync in ("full", "top", "none"):
        m(
            "drive-backup",
            **{"job_id": "j", "device": "top", "target": "there.qcow2"},
            **{"mode": "existing", "sync": sync},
        )
        if sync == "none":
            m.count_nodes()
            m("block-job-cancel", device="j")
        m.status("j", "null")
        m.count_nodes()
    m.look()


def what_cannot_be_backed_up(m: Side) -> None:
    source(m)
    arguments = {"job_id": "j", "device": "src", "sync": "full"}
    m("drive-backup", **arguments, target="missing.raw", mode="existing", format="raw")
    m("drive-backup", **arguments, target="no/where.raw", format="raw")
    m("drive-backup", **arguments, target="x", format="nothing")
    m("drive-backup", **{**arguments, "device": "nothing"}, target="x")
    backup(m, target="src")
    backup(m, target="nothing")
    backup(m, "nothing", target="src")
    target(m, "1M")
    backup(m)
    m("blockdev-del", node_name="target")
    target(m)
    m("blockdev-backup", device="src", target="target", sync="full")
    m("block-dirty-bitmap-add", node="src", name="b")
    for options in (
        {"speed": -1},
        {"sync": "incremental"},
        {"sync": "bitmap"},
        {"sync": "bitmap", "bitmap": "b"},
        {"sync": "bitmap", "bitmap": "c", "bitmap_mode": "always"},
        {"sync": "incremental", "bitmap": "c"},
        {"sync": "incremental", "bitmap": "b", "bitmap_mode": "never"},
        {"sync": "none", "bitmap": "b", "bitmap_mode": "always"},
        {"sync": "full", "bitmap": "b", "bitmap_mode": "never"},
        {"sync": "full", "bitmap": "b"},
        {"sync": "full", "bitmap_mode": "always"},
        {"filter_node_name": "src"},
        {"filter_node_name": "9"},
        {"x_perf": {"max-workers": 0}},
        {"x_perf": {"max-chunk": 1}},
        {"x_perf": {"max-chunk": -1}},
    ):
        backup(m, **options)
    m.look()


def jobs_that_stay_until_they_are_dismissed(m: Side) -> None:
    source(m)
    target(m)
    backup(m, auto_dismiss=False)
    m.status("j", "concluded")
    m.jobs()
    m("block-job-dismiss", id="k")
    backup(m)
    backup(m, job_id="k")
    m.status("k", "null")
    m("block-job-dismiss", id="j")
    m.status("j", "null")
    backup(m)
    ends(m)


def a_failed_job_stays_until_it_is_dismissed(m: Side) -> None:
    source(m)
    m.image("target.qcow2")
    rule = {"event": "none", "iotype": "write", "sector": 1024, "errno": 28}
    m.node("target", "target.qcow2", blkdebug=[rule])
    backup(m, auto_dismiss=False, x_perf={"max-workers": 1})
    m.status("j", "concluded")
    m("query-jobs")
    m("block-job-dismiss", id="j")
    m.status("j", "null")


def two_backups(m: Side, **more: Any) -> None:
    """A transaction of two; the second job has to be given speed to come to its end."""
    for name in ("one", "two"):
        m.image(f"{name}.qcow2", "2M", "write -P 1 0 1M")
        m.node(name, f"{name}.qcow2")
    for name in ("to1", "to2"):
        target(m, name=f"{name}.qcow2")
    actions = [
        {
            "type": "blockdev-backup",
            "data": {
                **{"job-id": to, "device": name, "target": to, "sync": "full"},
                **{"speed": speed, **more},
            },
        }
        for name, to, speed in (("one", "to1", 0), ("two", "to2", 1))
    ]
    m("transaction", actions=actions, properties={"completion-mode": "grouped"})


def backups_of_one_moment(m: Side) -> None:
    two_backups(m, **{"auto-finalize": False})
    m.status("to1", "waiting")
    m.jobs()
    m("block-job-set-speed", device="to2", speed=0)
    m.status("to2", "pending")
    m("job-finalize", id="to1")
    m.status("to1", "null")
    m.look()


def backups_of_which_one_is_cancelled(m: Side) -> None:
    two_backups(m, speed=1)
    m.first_part("to1", "to2")
    m("block-job-cancel", device="to1")
    m.status("to1", "null")
    m.look()


def backups_that_cannot_be_grouped(m: Side) -> None:
    source(m)
    target(m)
    data = {"job-id": "j", "device": "src", "target": "target", "sync": "full"}
    good = {"type": "blockdev-backup", "data": data}
    bad = {"type": "blockdev-backup", "data": {**data, "job-id": "k", "device": "nothing"}}
    snapshot = {
        "type": "blockdev-snapshot-sync",
        "data": {"node-name": "src", "snapshot-file": "s.qcow2", "snapshot-node-name": "s"},
    }
    m("transaction", actions=[good, bad])
    m("transaction", actions=[good, {"type": "abort", "data": {}}])
    m("transaction", actions=[good, snapshot], properties={"completion-mode": "grouped"})
    m("transaction", actions=[good, good])
    m.look()


def by_bitmap(m: Side, name: str = "target", bitmap: str = "b", **more: Any) -> None:
    backup(m, target=name, sync="incremental", bitmap=bitmap, **more)


def an_incremental_chain(m: Side) -> None:
    """Each backup has what was written since the last one."""
    source(m)
    m("block-dirty-bitmap-add", node="src", name="b")
    target(m, name="full.qcow2")
    backup(m, target="full")
    m.status("j", "null")
    below = "full.qcow2"
    for turn in range(3):
        rewrite(m, turn)
        name = f"inc{turn}"
        m.image(f"{name}.qcow2", "2M", below=below)
        m.node(name, f"{name}.qcow2", backing=None)
        by_bitmap(m, name)
        ends(m)
        below = f"{name}.qcow2"


def rewrite(m: Side, turn: int) -> None:
    """Another job writes to the source: guests are not needed to make it dirty."""
    m.image("pattern.raw", "2M", f"write -P {turn + 5} {turn * 256}k 128k")
    m.node("pattern", "pattern.raw")
    m("block-dirty-bitmap-add", node="pattern", name="p")
    backup(m, "pattern", target="src", job_id="w", sync="full", x_perf={"max-workers": 1})
    m.status("w", "null")
    m("blockdev-del", node_name="pattern")


def bitmaps_in_use(m: Side) -> None:
    source(m)
    target(m)
    for name in ("b", "c"):
        m("block-dirty-bitmap-add", node="src", name=name)
    by_bitmap(m, auto_finalize=False)
    m.status("j", "pending")
    for verb in ("remove", "clear", "enable", "disable"):
        m(f"block-dirty-bitmap-{verb}", node="src", name="b")
    m("block-dirty-bitmap-merge", node="src", target="b", bitmaps=["c"])
    m("block-dirty-bitmap-merge", node="src", target="c", bitmaps=["b"])
    m.look()
    by_bitmap(m, job_id="k")
    m("job-finalize", id="j")
    ends(m)
    m("block-dirty-bitmap-remove", node="src", name="b")


def the_bitmap_of_a_failed_backup(m: Side) -> None:
    source(m)
    m("block-dirty-bitmap-add", node="src", name="b")
    rewrite(m, 1)
    m.image("target.qcow2")
    rule = {"event": "none", "iotype": "write", "sector": 640, "errno": 28, "once": True}
    m.node("target", "target.qcow2", blkdebug=[rule])
    for _ in range(2):
        by_bitmap(m, x_perf={"max-workers": 1})
        m.status("j", "null")
        m("x-debug-block-dirty-bitmap-sha256", node="src", name="b")


def backups_by_bitmap_of_which_one_fails(m: Side) -> None:
    """Both bitmaps are as before; afterwards both can be done again."""
    for name in ("one", "two"):
        m.image(f"{name}.qcow2", "2M", "write -P 1 0 1M")
        m.node(name, f"{name}.qcow2")
        m("block-dirty-bitmap-add", node=name, name="b")
        m.image(f"to-{name}.qcow2")
    rule = {"event": "none", "iotype": "write", "sector": 640, "errno": 28, "once": True}
    m.node("to-one", "to-one.qcow2")
    m.node("to-two", "to-two.qcow2", blkdebug=[rule])
    for name in ("one", "two"):
        m.image("pattern.raw", "2M", "write -P 5 0 128k")
        m.node("pattern", "pattern.raw")
        backup(m, "pattern", target=name, job_id="w")
        m.status("w", "null")
        m("blockdev-del", node_name="pattern")
    for grouped in ("grouped", "individual"):
        actions = [
            {
                "type": "blockdev-backup",
                "data": {
                    **{"job-id": name, "device": name, "target": f"to-{name}", "bitmap": "b"},
                    **{"sync": "incremental", "x-perf": {"max-workers": 1}},
                    **{"speed": speed, "auto-finalize": False},
                },
            }
            for name, speed in (("one", 0), ("two", 1))
        ]
        m("transaction", actions=actions, properties={"completion-mode": grouped})
        m.status("one", "pending" if grouped == "individual" else "waiting")
        m("block-job-set-speed", device="two", speed=0)
        m.status("two", "null" if grouped == "grouped" else "pending")
        if grouped == "individual":
            for name in ("one", "two"):
                m("job-finalize", id=name)
        for name in ("one", "two"):
            m("x-debug-block-dirty-bitmap-sha256", node=name, name="b")


def nodes_of_a_backup(m: Side) -> None:
    """What commands may not do with the nodes of a running backup."""
    three(m)
    target(m)
    m.image("other.qcow2")
    m.node("other", "other.qcow2", backing=None)
    backup(m, "top", speed=1, filter_node_name="f")
    for node in ("top", "target", "f"):
        m("blockdev-del", node_name=node)
        if node != "top":
            m("blockdev-snapshot", node=node, overlay="other")
            m("block-stream", job_id="k", device=node)
            m("blockdev-backup", job_id="k", device="other", target=node, sync="full")
            m("drive-backup", job_id="k", device=node, target="new", sync="full")
        m("block-commit", job_id="k", device=node)
        m("blockdev-mirror", job_id="k", device="other", target=node, sync="full")
    m("blockdev-del", node_name="mid")
    m.look()
    m.first_part()
    m("job-cancel", id="j")
    ends(m)


CASES = [
    backups_to_probed_images_over_others,
    *(backup_of_all, backup_of_the_top, backup_of_nothing, backup_cancelled, backup_paused),
    *(backups_into_new_images, backup_to_an_image_that_is_there, what_cannot_be_backed_up),
    *(jobs_that_stay_until_they_are_dismissed, a_failed_job_stays_until_it_is_dismissed),
    *(backups_of_one_moment, backups_of_which_one_is_cancelled, backups_that_cannot_be_grouped),
    *(an_incremental_chain, bitmaps_in_use, the_bitmap_of_a_failed_backup),
    *(backups_by_bitmap_of_which_one_fails, nodes_of_a_backup),
]


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_case(machines: Shared, case: Callable[[Side], None]) -> None:
    machines.play(case)
