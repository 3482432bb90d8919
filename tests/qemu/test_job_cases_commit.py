# SPDX-License-Identifier: MIT
"""QEMU's published cases of committing in our own words, played on QEMU and on this machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from beside_qemu import Shared, Side
from job_chains import ends, images, long, three


def commit_by_file_names(m: Side) -> None:
    three(m)
    m("block-commit", job_id="j", device="top", top="mid.qcow2", base="base.raw")
    ends(m)


def commit_by_node_names(m: Side) -> None:
    three(m)
    m("block-commit", job_id="j", device="top", top_node="mid", base_node="base")
    ends(m)


def commit_with_another_name_for_the_base(m: Side) -> None:
    three(m)
    m("block-commit", job_id="j", device="top", top_node="mid", backing_file="./base.raw")
    ends(m)


def commit_several_images(m: Side) -> None:
    long(m, 6)
    m("block-commit", job_id="j", device="n5", top_node="n4", base_node="n1")
    ends(m)


def commit_under_a_stream(m: Side) -> None:
    """The stream's target is writable, so that the stream relies on the commit's filter."""
    for finished in (["commit", "stream"], ["stream", "commit"]):
        long(m, 5, writable=2)
        arguments = {"device": "n4", "top_node": "n2", "base_node": "n1"}
        m("block-commit", job_id="commit", auto_finalize=False, **arguments)
        m.status("commit", "pending")
        m("block-stream", job_id="stream", device="n3", base_node="n2", auto_finalize=False)
        m.status("stream", "pending")
        for job in finished:
            m("job-finalize", id=job)
            ends(m, job)
        m.remove_nodes()


def commit_of_the_wrong_images(m: Side) -> None:
    three(m)
    m.image("other.qcow2")
    m.node("other", "other.qcow2")
    for arguments in (
        {"top": "base.raw", "base": "base.raw"},
        {"top_node": "base", "base_node": "base"},
        {"top": "badfile", "base": "base.raw"},
        {"top_node": "other", "base_node": "base"},
        {"top_node": "nothing", "base_node": "base"},
        {"top": "mid.qcow2", "base": "badfile"},
        {"top_node": "mid", "base_node": "other"},
        {"top": "base.raw", "base": "mid.qcow2"},
        {"top_node": "base", "base_node": "mid"},
        {"top": "base.raw"},
        {"top_node": "mid", "top": "mid.qcow2"},
        {"base_node": "base", "base": "base.raw"},
        {"top_node": "mid", "base_node": "top"},
        {"backing_file": "base.raw"},
        {"top_node": "mid", "speed": -1},
        {"top_node": "mid", "filter_node_name": "9"},
        {"filter_node_name": "mid"},
    ):
        m("block-commit", job_id="j", device="top", **arguments)
    m("block-commit", job_id="j", device="mid")
    m("block-commit", job_id="j", device="nothing")
    m("block-commit", device="top")
    m("block-commit", job_id="j", device="other")
    m("block-commit", job_id="j", device="other", top_node="mid", base_node="base")
    m.look()


def commit_the_active_image(m: Side) -> None:
    three(m)
    m("block-commit", job_id="j", device="top")
    m.status("j", "ready")
    m.look()
    m("block-job-complete", device="j")
    ends(m)


def commit_the_active_image_into_the_next(m: Side) -> None:
    three(m)
    m("block-commit", job_id="j", device="top", base="mid.qcow2")
    m.status("j", "ready")
    m("block-job-complete", device="j")
    ends(m)


def commit_the_active_image_and_stay(m: Side) -> None:
    three(m)
    m("block-commit", job_id="j", device="top", base_node="mid", filter_node_name="f")
    m.status("j", "ready")
    m.look()
    m("block-job-cancel", device="j")
    ends(m)


def commit_without_a_backing_file(m: Side) -> None:
    m.image("base.raw")
    m.node("base", "base.raw")
    m("block-commit", job_id="j", device="base")
    m.look()


def commit_into_a_smaller_image(m: Side) -> None:
    m.image("base.raw", "1M", "write -P 1 0 1M")
    m.image("mid.qcow2", "2M", "write -P 2 1M 512k", below="base.raw")
    m.image("top.qcow2", "2M", "write -P 3 512k 128k", below="mid.qcow2")
    m.node("base", "base.raw", read_only=True)
    m.node("mid", "mid.qcow2", read_only=True, backing="base")
    m.node("top", "top.qcow2", backing="mid")
    m("block-commit", job_id="j", device="top", top_node="mid")
    ends(m)


def commit_the_active_image_into_a_smaller_one(m: Side) -> None:
    m.image("base.qcow2", "1M", "write -P 1 0 1M")
    m.image("top.qcow2", "2M", "write -P 3 512k 1M", below="base.qcow2")
    m.node("base", "base.qcow2", read_only=True)
    m.node("top", "top.qcow2", backing="base")
    m("block-commit", job_id="j", device="top")
    m.status("j", "ready")
    m("block-job-complete", device="j")
    ends(m)


def commit_under_two_overlays(m: Side) -> None:
    """What is committed is below two images, and both get the new backing file."""
    three(m)
    m.image("second.qcow2", "2M", "write -P 4 0 64k", below="mid.qcow2")
    m.node("second", "second.qcow2", backing="mid")
    m("block-commit", job_id="j", device="top", top_node="mid")
    m.status("j", "null")
    m.look()


def commit_what_is_not_in_the_header(m: Side) -> None:
    """The nodes are on others than the images say."""
    images(m)
    m.image("else.raw", "2M", "write -P 9 0 2M")
    m.node("else", "else.raw", read_only=True)
    m.node("mid", "mid.qcow2", read_only=True, backing="else")
    m.node("top", "top.qcow2", backing="mid")
    m("block-commit", job_id="j", device="top", top_node="mid", base="base.raw")
    m("block-commit", job_id="j", device="top", top_node="mid", base="else.raw")
    ends(m)


def commit_with_a_filter_between(m: Side) -> None:
    images(m)
    m.node("base", "base.raw", read_only=True)
    m("blockdev-add", driver="blkdebug", node_name="filter", image="base", read_only=True)
    m.node("mid", "mid.qcow2", read_only=True, backing="filter")
    m.node("top", "top.qcow2", backing="mid")
    m("block-commit", job_id="j", device="top", top_node="mid", base_node="filter")
    ends(m)


def commit_through_a_filter_over_the_base(m: Side, active: bool = False) -> None:
    images(m)
    m.node("base", "base.raw", read_only=True)
    m("blockdev-add", driver="blkdebug", node_name="filter", image="base", read_only=True)
    m.node("mid", "mid.qcow2", read_only=True, backing="filter")
    m.node("top", "top.qcow2", backing="mid")
    m("block-commit", job_id="j", device="top", top_node="filter", base_node="base")
    m("block-commit", job_id="j", device="top", top_node="filter", base_node="filter")
    if active:
        m("block-commit", job_id="j", device="top", base_node="base")
        m.status("j", "ready")
        m("job-complete", id="j")
    else:
        m("block-commit", job_id="j", device="top", top_node="mid", base_node="base")
    ends(m)


def commit_of_the_active_image_through_a_filter_over_the_base(m: Side) -> None:
    commit_through_a_filter_over_the_base(m, active=True)


def commit_through_a_filter_over_a_smaller_base(m: Side) -> None:
    """The filter does not share that the base grows."""
    m.image("base.raw", "1M", "write -P 1 0 1M")
    m.image("mid.qcow2", "2M", "write -P 2 1M 512k", below="base.raw")
    m.image("top.qcow2", "2M", "write -P 3 512k 128k", below="mid.qcow2")
    m.node("base", "base.raw", read_only=True)
    m("blockdev-add", driver="blkdebug", node_name="filter", image="base", read_only=True)
    m.node("mid", "mid.qcow2", read_only=True, backing="filter")
    m.node("top", "top.qcow2", backing="mid")
    m("block-commit", job_id="j", device="top", top_node="mid", base_node="base")
    m("block-commit", job_id="j", device="top", base_node="base")
    m.look()


def names_beside_the_overlay(m: Side) -> None:
    """A relative name is one beside the image that has it, where there may be no such file."""
    (m.directory / "snaps").mkdir(exist_ok=True)
    m.image("base.qcow2", "2M", "write -P 1 0 128k")
    m.node("base", "base.qcow2")
    for name in ("one", "two"):
        file = {"snapshot_file": f"snaps/{name}.qcow2", "snapshot_node_name": name}
        below = {"one": "base", "two": "one"}[name]
        m("blockdev-snapshot-sync", node_name=below, format="qcow2", **file)
    for name in ("base.qcow2", "snaps/one.qcow2", "one.qcow2", str(m.directory / "base.qcow2")):
        m("block-stream", job_id="j", device="two", base=name, speed=-1)
        m("block-commit", job_id="j", device="two", top=name, base_node="base", speed=-1)
        m("block-commit", job_id="j", device="two", base=name, speed=-1)
    m.look()


def commit_into_a_busy_image(m: Side) -> None:
    """Somebody else may not write what a backup reads."""
    three(m)
    m.image("copy.raw")
    m.node("copy", "copy.raw")
    m("blockdev-backup", job_id="b", device="top", target="copy", sync="none")
    m("block-commit", job_id="j", device="top", top_node="mid")
    m("block-commit", job_id="j", device="top")
    m("block-job-cancel", device="b")
    ends(m, "b")


def reading_fails(m: Side, policy: str) -> None:
    images(m)
    m.node("base", "base.raw", read_only=True)
    rule = [{"event": "none", "sector": 1152, "once": True, "iotype": "read"}]
    m.node("mid", "mid.qcow2", read_only=True, backing="base", blkdebug=rule)
    m.node("top", "top.qcow2", backing="mid")
    m("block-commit", job_id="j", device="top", top_node="mid", on_error=policy)


def writing_fails(m: Side, policy: str, number: int = 28) -> None:
    images(m)
    rule = {"event": "none", "sector": 1024, "once": True, "iotype": "write", "errno": number}
    m.node("base", "base.raw", read_only=True, blkdebug=[rule])
    m.node("mid", "mid.qcow2", read_only=True, backing="base")
    m.node("top", "top.qcow2", backing="mid")
    m("block-commit", job_id="j", device="top", top_node="mid", on_error=policy)


def a_failed_read_is_reported(m: Side) -> None:
    reading_fails(m, "report")
    ends(m)


def a_failed_read_is_ignored(m: Side) -> None:
    reading_fails(m, "ignore")
    ends(m)


def a_failed_read_stops(m: Side) -> None:
    reading_fails(m, "stop")
    m.status("j", "paused")
    m.jobs()
    m("block-job-resume", device="j")
    ends(m)


def a_failed_write_is_reported(m: Side) -> None:
    writing_fails(m, "enospc", 1)
    ends(m)


def a_failed_write_is_ignored(m: Side) -> None:
    writing_fails(m, "ignore")
    m.status("j", "null")


def a_full_base_stops(m: Side) -> None:
    writing_fails(m, "enospc")
    m.status("j", "paused")
    m.jobs()
    m("job-cancel", id="j")
    ends(m)


CASES = [
    *(commit_by_file_names, commit_by_node_names, commit_with_another_name_for_the_base),
    *(commit_several_images, commit_of_the_wrong_images, commit_the_active_image),
    *(commit_the_active_image_into_the_next, commit_the_active_image_and_stay),
    *(commit_without_a_backing_file, commit_into_a_smaller_image),
    *(commit_the_active_image_into_a_smaller_one, commit_under_two_overlays),
    *(commit_what_is_not_in_the_header, commit_with_a_filter_between, commit_into_a_busy_image),
    commit_under_a_stream,
    names_beside_the_overlay,
    commit_through_a_filter_over_the_base,
    commit_of_the_active_image_through_a_filter_over_the_base,
    commit_through_a_filter_over_a_smaller_base,
    *(a_failed_read_is_reported, a_failed_read_is_ignored, a_failed_read_stops),
    *(a_failed_write_is_reported, a_failed_write_is_ignored, a_full_base_stops),
]


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_case(machines: Shared, case: Callable[[Side], None]) -> None:
    machines.play(case)
