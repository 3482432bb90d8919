# SPDX-License-Identifier: MIT
"""A server that stops answering: who needs it waits, and nobody else does."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from live import TIMEOUT_S, Flight, Live, Qmp, freeze, make_image
from test_nbd_node import killed, nbdkit, silent

MIB = 1 << 20
BLOCK = 4096
SIZE = 8 * MIB

FAR = {"driver": "nbd", "node-name": "far", "server": {"type": "unix", "path": "kit.sock"}}


class Place:
    """A machine with a drive `a` that has to do with a server, and `b` that has not."""

    def __init__(self, directory: Path, *keys: str) -> None:
        self.directory = directory
        for name in "ab":
            make_image(directory / f"{name}.img", SIZE, pattern=ord(name))
        self.server = nbdkit(directory, "memory", str(SIZE))
        self.keys = keys or ("drive=id=a,file=a.img,format=raw,werror=report",)

    @contextlib.contextmanager
    def machine(self) -> Iterator[tuple[Live, Qmp]]:
        drive = "drive=id=b,file=b.img,format=raw"
        with killed(self.server), Live(self.directory, *self.keys, drive) as live:
            with live.qmp() as qmp:
                yield live, qmp

    def hang(self) -> None:
        freeze(self.server)

    def go_on(self) -> None:
        self.server.send_signal(signal.SIGCONT)

    def use_the_other(self, live: Live, qmp: Qmp) -> None:
        """Everything that can be done to `b` is done at once, however long `a` waits."""
        directory = self.directory
        names = ("s0", "s1", "copy", "backup")
        with live.guest("b") as guest:
            qmp("blockdev-add", driver="file", node_name="f", filename="b.img", read_only=True)
            qmp("blockdev-del", node_name="f")
            for name in names[:2]:
                file = str(directory / f"{name}.qcow2")
                snapshot: dict[str, Any] = {"device": "b", "snapshot-file": file}
                qmp.execute("blockdev-snapshot-sync", snapshot)
                guest.pwrite(name[:1].encode() * BLOCK, 0)
            # Also as it is asked for by its own guest, in the middle of requests.
            qmp("block_resize", device="b", size=SIZE + MIB)
            qmp("block_resize", device="b", size=SIZE)
            for command in ("drive-mirror", "drive-backup"):
                target = str(directory / f"{command}.raw")
                qmp(command, job_id="jb", device="b", target=target, sync="full", format="raw")
                if command == "drive-mirror":
                    qmp.wait_event("BLOCK_JOB_READY")
                    qmp("job-complete", id="jb")
                assert "error" not in qmp.wait_event("BLOCK_JOB_COMPLETED")["data"]
                wait_null(qmp, "jb")
                guest.pwrite(b"n" * BLOCK, BLOCK)
            qmp("query-jobs")
            qmp("query-block")
            qmp("query-named-block-nodes")
            assert guest.pread(BLOCK, BLOCK) == b"n" * BLOCK

    def stop_and_go(self, live: Live, qmp: Qmp) -> None:
        """STOP is said, and after `cont` guests go on, though there is no answer to `stop` yet.

        Nor does a reset keep them.
        """
        with live.guest("b") as guest, live.qmp() as other, live.qmp() as third:
            third.send(json.dumps({"execute": "system_reset"}).encode())
            qmp.wait_event("RESET")
            guest.pwrite(b"r" * BLOCK, 0)
            for _ in range(3):
                other.send(json.dumps({"execute": "stop"}).encode())
                qmp.wait_event("STOP")
                assert not qmp("query-status")["running"]
                qmp("cont")
                guest.pwrite(b"c" * BLOCK, 0)
                while "return" not in other.receive():
                    pass


def wait_null(qmp: Qmp, job: str) -> None:
    while qmp.wait_event("JOB_STATUS_CHANGE")["data"] != {"id": job, "status": "null"}:
        pass


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
    with place.machine() as (live, qmp), live.guest("a") as guest, live.qmp() as stuck:
        guest.pread(BLOCK, 0)
        place.hang()
        flight = Flight()
        reads = [flight.read(guest, n * BLOCK, BLOCK) for n in range(6)]
        flight.arrived(qmp)
        add = {"driver": "raw", "node-name": "over", "file": "na"}
        resize = {"execute": "block_resize", "arguments": {"device": "a", "size": SIZE}}
        stuck.send(json.dumps(resize).encode())
        with live.qmp() as behind:
            behind.send(json.dumps({"execute": "blockdev-add", "arguments": add}).encode())
            place.use_the_other(live, qmp)
            place.stop_and_go(live, qmp)
            assert all(read.outcome is None for read in reads)
            place.go_on()
            assert flight.land(*reads) == ["OK"] * 6
            for client in (stuck, behind):
                while "event" in client.receive():
                    pass


def test_while_a_server_does_not_greet(tmp_path: Path) -> None:
    """One client opens it, another opens something else."""
    place = Place(tmp_path)
    with (
        silent(tmp_path / "mute.sock"),
        place.machine() as (live, qmp),
        live.qmp() as stuck,
        live.qmp() as second,
    ):
        mute: dict[str, Any] = {**FAR, "node-name": "mute", "open-timeout": 4000}
        mute["server"] = {"type": "unix", "path": "mute.sock"}
        stuck.send(json.dumps({"execute": "blockdev-add", "arguments": mute}).encode())
        overlay = {"device": "a", "snapshot-file": "nbd:unix:mute.sock"}
        overlay |= {"mode": "existing", "format": "raw"}
        second.send(
            json.dumps({"execute": "blockdev-snapshot-sync", "arguments": overlay}).encode()
        )
        place.use_the_other(live, qmp)
        assert live.stop() == 0, "and it does not keep the process from ending"


def test_the_end_of_a_process_under_a_hung_server(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with place.machine() as (live, qmp):
        qmp.execute("blockdev-add", FAR)
        place.hang()
        qmp("blockdev-mirror", job_id="ja", device="a", target="far", sync="full")
        qmp.send(json.dumps({"execute": "quit"}).encode())
        assert live.process.wait(TIMEOUT_S) == 0
