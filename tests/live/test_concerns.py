# SPDX-License-Identifier: MIT
"""Whatever comes to concern requests, the next one meets it, under a guest that never rests.

Nearly all of fio's requests take the shortcut; what begins to concern them
takes it away, and nobody has to remember to do so.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbd
import pytest

from live import TIMEOUT_S, Flight, Live, Qmp, make_image

BLOCK = 4096
MIB = 1 << 20
SIZE = 8 * MIB

LIMITS = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)


class World:
    """A drive under fio, which stays in its upper half, and a guest in the lower one."""

    def __init__(self, live: Live, qmp: Qmp, guest: nbd.NBD) -> None:
        self.live = live
        self.qmp = qmp
        self.guest = guest
        self.image = live.directory / "d.img"

    def write(self, byte: bytes = b"w", offset: int = 0) -> str:
        """Write a block; "OK", or the name of the errno."""
        try:
            self.guest.pwrite(byte * BLOCK, offset)
        except nbd.Error as exc:
            return str(exc.errno)
        return "OK"

    def read(self, offset: int = 0) -> bytes:
        return bytes(self.guest.pread(BLOCK, offset))

    def waits_for(self, what: str) -> bool:
        """Whether a request of the lower half waits for that."""
        requests = self.qmp("x-query-requests")
        return any(
            request["offset"] < SIZE // 2 and request.get("waits-for") == what
            for request in requests
        )

    def is_held(self, what: str, end_it: str, arguments: dict[str, Any] | None = None) -> None:
        """Of writes that are sent now some wait for `what`, and go on after a command.

        One of them may go under a limit at once.
        """
        flight = Flight()
        for number in range(4):
            flight.write(self.guest, number * BLOCK, b"h" * BLOCK)
        flight.poll(0)
        self.qmp.wait_for(lambda: self.waits_for(what))
        self.qmp.execute(end_it, arguments)
        while flight.pending:
            assert all(done.outcome == "OK" for done in flight.poll(TIMEOUT_S))
        assert self.read() == b"h" * BLOCK


def a_rule(w: World) -> None:
    for _ in range(20):
        w.qmp("x-fault-add", node_name="vda", id="r", iotype="write", offset=0, length=BLOCK)
        assert w.write() == "EIO"
        w.qmp("x-fault-remove", id="r")
        assert w.write() == "OK"


def a_rule_that_is_used_up(w: World) -> None:
    for _ in range(20):
        w.qmp("x-fault-add", node_name="vda", iotype="write", offset=0, length=BLOCK, count=1)
        assert [w.write(), w.write()] == ["EIO", "OK"]
    w.qmp("x-fault-add", node_name="vda", id="r", iotype="write", offset=0, length=BLOCK)
    w.qmp("x-fault-clear")
    assert w.write() == "OK"


def a_bitmap(w: World) -> None:
    def count() -> int:
        (node,) = [n for n in w.qmp("query-named-block-nodes") if n["node-name"] == "top"]
        return int(node["dirty-bitmaps"][0]["count"])

    w.qmp("block-dirty-bitmap-add", node="top", name="b", granularity=BLOCK, disabled=True)
    for _ in range(10):
        w.qmp("block-dirty-bitmap-clear", node="top", name="b")
        w.qmp("block-dirty-bitmap-enable", node="top", name="b")
        assert w.write() == "OK"
        w.qmp("block-dirty-bitmap-disable", node="top", name="b")
        assert count() >= BLOCK
    w.qmp("block-dirty-bitmap-remove", node="top", name="b")


def a_threshold(w: World) -> None:
    """Of the highest block, which fio does not write."""
    for _ in range(10):
        w.qmp("block-set-write-threshold", node_name="top", write_threshold=SIZE - BLOCK)
        assert w.write(offset=SIZE - BLOCK) == "OK"
        data = w.qmp.wait_event("BLOCK_WRITE_THRESHOLD").data
        assert data["amount-exceeded"] == BLOCK


def a_limit(w: World) -> None:
    for _ in range(3):
        limits = {"device": "vda", **LIMITS}
        w.qmp.execute("block_set_io_throttle", {**limits, "iops": 1})
        w.is_held("throttle", "block_set_io_throttle", limits)


def a_stop(w: World) -> None:
    for _ in range(10):
        w.qmp("stop")
        w.is_held("run", "cont")


def an_overlay(w: World) -> None:
    """What is written after the reply is in the overlay, and not in what is below."""
    assert w.write(b"0") == "OK"
    for number in range(3):
        file = str(w.live.directory / f"s{number}.qcow2")
        w.qmp("blockdev-snapshot-sync", device="vda", snapshot_file=file)
        assert w.write(b"123"[number : number + 1]) == "OK"
    with w.image.open("rb") as below:
        assert below.read(BLOCK) == b"0" * BLOCK
    w.qmp("block-commit", job_id="j", device="vda")
    w.qmp.wait_event("BLOCK_JOB_READY")
    w.qmp("job-complete", id="j")
    assert "error" not in w.qmp.wait_event("BLOCK_JOB_COMPLETED").data
    assert w.write(b"4") == "OK"
    with w.image.open("rb") as below:
        assert below.read(BLOCK) == b"4" * BLOCK


def a_mirror(w: World) -> None:
    """As soon as it copies writes at once, the target has what has been answered."""
    target = w.live.directory / "target.img"
    make_image(target, SIZE)
    w.qmp("blockdev-add", node_name="target", driver="file", filename=str(target))
    options = {"device": "top", "target": "target", "sync": "full"}
    w.qmp("blockdev-mirror", job_id="j", copy_mode="write-blocking", **options)
    w.qmp.wait_event("BLOCK_JOB_READY")
    for byte in (b"a", b"b"):
        assert w.write(byte) == "OK"
        with target.open("rb") as file:
            assert file.read(BLOCK) == byte * BLOCK
    w.qmp("block-job-cancel", device="j", force=True)
    w.qmp.wait_event("BLOCK_JOB_CANCELLED")


def a_filter(w: World) -> None:
    """A backup saves what is there before it is overwritten."""
    assert w.write(b"o") == "OK"
    target = w.live.directory / "backup.img"
    make_image(target, SIZE)
    w.qmp("blockdev-add", node_name="backup", driver="file", filename=str(target))
    w.qmp("blockdev-backup", job_id="j", device="top", target="backup", sync="none")
    assert w.write(b"n") == "OK"
    with target.open("rb") as file:
        assert file.read(BLOCK) == b"o" * BLOCK
    w.qmp("block-job-cancel", device="j")
    w.qmp.wait_event("BLOCK_JOB_CANCELLED")


def options_of_a_node(w: World) -> None:
    """Zeroes are noticed as soon as that is asked for: they are a hole then, and no data."""
    top = {"node-name": "top", "driver": "raw", "file": "file", "discard": "unmap"}
    for _ in range(5):
        w.qmp.execute("blockdev-reopen", {"options": [{**top, "detect-zeroes": "unmap"}]})
        assert w.write(b"\0") == "OK"
        status: list[int] = []

        def extent(context: str, offset: int, entries: list[int], error: object) -> None:
            status.extend(entries[:2])

        w.guest.block_status(BLOCK, 0, extent)
        assert status[1] & nbd.STATE_HOLE
        w.qmp.execute("blockdev-reopen", {"options": [top]})
        assert w.write(b"d") == "OK"


CHANGES = [
    *(a_rule, a_rule_that_is_used_up, a_bitmap, a_threshold, a_limit, a_stop),
    *(an_overlay, a_mirror, a_filter, options_of_a_node),
]


@contextmanager
def busy(live: Live) -> Iterator[None]:
    """Fio in the upper half of the drive, which must not see an error."""
    half = SIZE // 2
    fio = subprocess.Popen(
        [
            *("fio", "--name=t", "--ioengine=nbd", f"--uri={live.uri('vda')}", "--rw=randrw"),
            *("--bs=4k", "--iodepth=8", f"--offset={half}", f"--size={half - 2 * BLOCK}"),
            *("--thread", "--time_based", "--runtime=600", "--output-format=terse"),
        ],
        cwd=live.directory,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield
        fio.send_signal(2)
        out, _ = fio.communicate(timeout=TIMEOUT_S)
        (errors,) = (line.split(";")[4] for line in out.splitlines() if line.startswith("3;"))
        assert errors == "0", out
    finally:
        fio.kill()
        fio.communicate()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_the_next_request_meets_it(tmp_path: Path, change: object) -> None:
    make_image(tmp_path / "d.img", SIZE)
    drive = (
        "drive=id=vda,node-name=top,format=raw,file.driver=file,file.filename=d.img,"
        "file.node-name=file,discard=unmap,rerror=report,werror=report"
    )
    with Live(tmp_path, drive) as live, live.qmp() as qmp, live.guest("vda") as guest:
        with busy(live):
            world = World(live, qmp, guest)

            def written() -> bool:
                return bool(qmp("query-blockstats")[0]["stats"]["wr_operations"] > 1000)

            qmp.wait_for(written)
            assert callable(change)
            change(world)
