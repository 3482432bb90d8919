# SPDX-License-Identifier: MIT
"""QEMU's published cases of streaming in our own words, played on QEMU and on this machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from beside_qemu import Shared, Side
from job_chains import ends, images, long, three


def stream_all(m: Side) -> None:
    three(m)
    m("block-stream", job_id="j", device="top")
    ends(m)


def stream_into_an_image_below(m: Side) -> None:
    """The drive's own image stays as it is, and the other is read-only again."""
    three(m)
    m("block-stream", job_id="j", device="mid")
    ends(m)


def stream_nothing(m: Side) -> None:
    """All that is above the base is the image itself."""
    three(m)
    m("block-stream", job_id="j", device="top", base="mid.qcow2")
    ends(m)


def stream_down_to_a_base(m: Side) -> None:
    three(m)
    m("block-stream", job_id="j", device="top", base_node="base", backing_file="./base.raw")
    ends(m)


def stream_down_to_a_bottom(m: Side) -> None:
    three(m)
    m("block-stream", job_id="j", device="top", bottom="mid")
    ends(m)


def stream_of_a_lonely_image(m: Side) -> None:
    m.image("base.raw", "2M", "write -P 1 0 2M")
    m.node("base", "base.raw")
    m("block-stream", job_id="j", device="base")
    ends(m)


def stream_without_an_id(m: Side) -> None:
    three(m)
    m("block-stream", device="top")
    m("block-stream", job_id="9", device="top")
    m("block-stream", job_id="j j", device="top")
    m("block-stream", job_id="j", device="top", filter_node_name="9")
    m("block-stream", job_id="j", device="top", filter_node_name="mid")
    m.look()


def stream_with_an_id_and_a_filter_that_are_taken(m: Side) -> None:
    """The filter comes first."""
    three(m)
    m.image("other.qcow2")
    m.node("other", "other.qcow2")
    m("block-stream", job_id="j", device="other", auto_dismiss=False)
    m.status("j", "concluded")
    m("block-stream", job_id="j", device="top", filter_node_name="mid")
    m("block-stream", job_id="j", device="top", filter_node_name="f")
    m("job-dismiss", id="j")
    m.look()


def stream_to_what_cannot_be_written(m: Side) -> None:
    images(m)
    m.node("base", "base.raw", read_only=True)
    m.node("mid", "mid.qcow2", backing="base", read_only=True)
    m("blockdev-add", driver="file", node_name="f", filename="top.qcow2", read_only=True)
    m("blockdev-add", driver="qcow2", node_name="top", file="f", backing="mid", read_only=True)
    m("block-stream", job_id="j", device="top")
    m.look()


def stream_paused(m: Side) -> None:
    three(m)
    m("block-stream", job_id="j", device="top", speed=1)
    m("block-job-pause", device="j")
    m.status("j", "paused")
    m("block-job-pause", device="j")
    m("block-job-cancel", device="j")
    m.jobs()
    m("block-job-resume", device="j")
    m("block-job-resume", device="j")
    m("block-job-set-speed", device="j", speed=0)
    ends(m)


def stream_cancelled(m: Side) -> None:
    three(m)
    m("block-stream", job_id="j", device="top", speed=1, auto_dismiss=False)
    m("block-job-cancel", device="j")
    m.status("j", "concluded")
    m("query-jobs")
    m("block-job-dismiss", id="j")
    ends(m)


def streams_beside_each_other(m: Side) -> None:
    """Four jobs on disjoint parts of one chain, all of them pending at the same time."""
    long(m, 9)
    for n in (2, 4, 6, 8):
        bottom = f"n{n - 1}"
        m("block-stream", job_id=f"j{n}", device=f"n{n}", bottom=bottom, auto_finalize=False)
        m.status(f"j{n}", "pending")
    m.look()
    for n in (4, 8, 2, 6):
        m("job-finalize", id=f"j{n}")
        ends(m, f"j{n}")


def jobs_that_would_share_an_image(m: Side) -> None:
    long(m, 6)
    m("block-stream", job_id="j", device="n4", base_node="n1", speed=1)
    m("block-stream", job_id="k", device="n5", base_node="n3")
    m("block-stream", job_id="k", device="n3", base_node="n1")
    m("block-stream", job_id="k", device="n3")
    m("block-stream", job_id="k", device="n4", base_node="n2")
    m("block-stream", job_id="k", device="n5", base_node="n2")
    m("block-commit", job_id="k", device="n5", top_node="n3", base_node="n1")
    m("block-commit", job_id="k", device="n5", top_node="n3", base_node="n2")
    m("block-commit", job_id="k", device="n5", top_node="n5", base_node="n4")
    m("block-commit", job_id="k", device="n5", top_node="n4")
    m("block-commit", job_id="k", device="n5")
    m("block-job-cancel", device="j")
    ends(m)


def a_commit_that_would_share_an_image(m: Side) -> None:
    long(m, 7)
    m("block-commit", job_id="j", device="n6", top_node="n4", base_node="n1", speed=1)
    m("block-stream", job_id="k", device="n5", base_node="n0")
    m("block-stream", job_id="k", device="n6", base_node="n4")
    m("block-stream", job_id="k", device="n5")
    m("block-stream", job_id="k", device="n2")
    m("block-commit", job_id="k", device="n6", top_node="n5", base_node="n3")
    m("block-commit", job_id="k", device="n6", top_node="n1")
    m("block-commit", job_id="k", device="n3", top_node="n2")
    m.look()
    m("block-job-cancel", device="j")
    ends(m)


def a_stream_above_a_commit(m: Side) -> None:
    """The base of the stream is above what is committed: both can be."""
    long(m, 7)
    m("block-commit", job_id="c", device="n6", top_node="n2", base_node="n0", auto_finalize=False)
    m.status("c", "pending")
    m("block-stream", job_id="s", device="n6", base_node="n4", auto_finalize=False)
    m.jobs()
    m("job-finalize", id="c")
    m("job-finalize", id="s")
    m.look()


def a_stream_whose_base_goes_away(m: Side) -> None:
    """The base is streamed into by another job, which ends while the first waits for its end."""
    long(m, 6)
    m("block-stream", job_id="s", device="n5", bottom="n4", auto_finalize=False)
    m.status("s", "pending")
    m("block-commit", job_id="c", device="n5", top_node="n3", base_node="n2")
    m("block-stream", job_id="t", device="n3", base_node="n1")
    m.status("t", "null")
    m.look()
    m("job-finalize", id="s")
    ends(m, "s")


CASES = [
    *(stream_all, stream_into_an_image_below, stream_nothing, stream_down_to_a_base),
    *(stream_down_to_a_bottom, stream_of_a_lonely_image, stream_without_an_id),
    stream_with_an_id_and_a_filter_that_are_taken,
    *(stream_to_what_cannot_be_written, stream_paused, stream_cancelled),
    *(streams_beside_each_other, jobs_that_would_share_an_image),
    *(a_commit_that_would_share_an_image, a_stream_above_a_commit),
    a_stream_whose_base_goes_away,
]


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_case(machines: Shared, case: Callable[[Side], None]) -> None:
    machines.play(case)
