# SPDX-License-Identifier: MIT
"""A server that stops answering: who needs it waits, and nobody else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hung_place import BLOCK, FAR, SIZE, Place, wait_null
from live import TIMEOUT_S, Flight
from nbd_servers import silent


@pytest.mark.parametrize("command", ["blockdev-mirror", "blockdev-backup"])
def test_under_a_job(command: str, tmp_path: Path) -> None:
    """Others go on; and who force-cancels it is rid of it, though the server never answers."""
    place = Place(tmp_path)
    with place.machine() as (live, qmp), live.guest("a") as guest:
        qmp.execute("blockdev-add", FAR)
        place.hang()
        qmp(command, job_id="ja", device="a", target="far", sync="full")
        place.use_the_other(live, qmp)
        place.stop_and_go(live, qmp)
        assert guest.pread(BLOCK, 0) == b"a" * BLOCK
        qmp("job-cancel", id="ja")
        wait_null(qmp, "ja")
        guest.pwrite(b"A" * BLOCK, 0)
        qmp("blockdev-del", node_name="far")
        assert qmp("query-jobs") == []


@pytest.mark.parametrize("how", ["mirror", "backup"])
def test_a_guest_that_waits_for_a_job_is_rid_of_it(how: str, tmp_path: Path) -> None:
    """Its write succeeds: where it would have been copied to is not needed any more."""
    place = Place(tmp_path)
    with place.machine() as (live, qmp), live.guest("a") as guest:
        qmp.execute("blockdev-add", FAR)
        job = {"job_id": "ja", "device": "a", "target": "far"}
        if how == "mirror":
            qmp("blockdev-mirror", sync="full", copy_mode="write-blocking", **job)
            qmp.wait_event("BLOCK_JOB_READY")
        else:
            qmp("blockdev-backup", sync="none", **job)
        place.hang()
        flight = Flight()
        write = flight.write(guest, 0, b"w" * BLOCK)
        flight.arrived(qmp)
        place.use_the_other(live, qmp)
        assert write.outcome is None
        qmp("block-job-cancel", device="ja", force=True)
        assert flight.land(write) == ["OK"]
        wait_null(qmp, "ja")
        assert guest.pread(BLOCK, 0) == b"w" * BLOCK
        place.go_on()
        qmp("blockdev-del", node_name="far")


def test_under_a_guest(tmp_path: Path) -> None:
    """Its requests wait, and so do commands about its drive: but nobody else."""
    server = "driver=nbd,server.type=unix,server.path=kit.sock"
    place = Place(tmp_path, f"drive=id=a,node-name=na,{server}")
    with place.machine() as (live, qmp), live.guest("a") as guest, live.wire() as stuck:
        guest.pread(BLOCK, 0)
        place.hang()
        flight = Flight()
        reads = [flight.read(guest, n * BLOCK, BLOCK) for n in range(6)]
        flight.arrived(qmp)
        stuck.command("block_resize", device="a", size=SIZE)
        with live.wire() as behind:
            behind.command("blockdev-add", driver="raw", node_name="over", file="na")
            place.use_the_other(live, qmp)
            place.stop_and_go(live, qmp)
            assert all(read.outcome is None for read in reads)
            place.go_on()
            assert flight.land(*reads) == ["OK"] * 6
            for client in (stuck, behind):
                client.reply()


def test_while_a_server_does_not_greet(tmp_path: Path) -> None:
    """One client opens it, another opens something else."""
    place = Place(tmp_path)
    with (
        silent(tmp_path / "mute.sock"),
        place.machine() as (live, qmp),
        live.wire() as stuck,
        live.wire() as second,
    ):
        mute: dict[str, Any] = {**FAR, "node-name": "mute", "open-timeout": 4000}
        mute["server"] = {"type": "unix", "path": "mute.sock"}
        stuck.command("blockdev-add", **mute)
        overlay = {"device": "a", "snapshot-file": "nbd:unix:mute.sock"}
        overlay |= {"mode": "existing", "format": "raw"}
        second.command("blockdev-snapshot-sync", **overlay)
        place.use_the_other(live, qmp)
        assert live.stop() == 0, "and it does not keep the process from ending"


def test_the_end_of_a_process_under_a_hung_server(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.machine() as (live, qmp):
        qmp.execute("blockdev-add", FAR)
        place.hang()
        qmp("blockdev-mirror", job_id="ja", device="a", target="far", sync="full")
        with live.wire() as other:
            other.command("quit")
            assert live.process.wait(TIMEOUT_S) == 0
