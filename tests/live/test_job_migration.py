# SPDX-License-Identifier: MIT
"""Storage migration between real machines, with errors on the way, and volumes that run full."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from live import TIMEOUT_S, Live, Qmp, make_image
from qcow2_images import content, create

MIB = 1 << 20
SIZE = 16 * MIB
STOPS = "rerror=stop,werror=enospc"
BLOCK = 64 << 10


@dataclass
class Machines:
    """The machine that the guest is on, and the one it is to be on, with their control clients."""

    here: Live
    there: Live
    qmp: Qmp
    far: Qmp

    def uri(self) -> str:
        return self.there.uri("vda")

    def images(self) -> tuple[Path, Path]:
        return self.here.directory / "disk.img", self.there.directory / "disk.img"


@contextmanager
def machines(directory: Path, policy: str = "report", more: str = "") -> Iterator[Machines]:
    """Source with random content, target empty; `policy` is the target's werror."""
    homes = [directory / "here", directory / "there"]
    for home in homes:
        home.mkdir()
        make_image(home / "disk.img", SIZE)
    (homes[0] / "disk.img").write_bytes(random.Random(5).randbytes(SIZE))
    drive = "drive=id=vda,file=disk.img,format=raw"
    with (
        Live(homes[0], f"{drive},{STOPS}") as here,
        Live(homes[1], f"{drive},rerror=report,werror={policy}{more}") as there,
        here.qmp() as qmp,
        there.qmp() as far,
    ):
        yield Machines(here, there, qmp, far)


def fio(uri: str, *more: str) -> list[str]:
    """fio that writes what it can verify later, everywhere once."""
    return [
        *("fio", "--name=t", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", "--bs=4k"),
        *(f"--size={SIZE}", "--iodepth=16", "--verify=crc32c", "--randseed=7", "--minimal"),
        *("--verify_state_save=0", *more),
    ]


def mirror(m: Machines, command: str, **more: Any) -> None:
    """Mirror into the other machine's export, as a node called far."""
    options = {
        **{"job_id": "j", "device": "vda", "sync": "full", "on_target_error": "stop"},
        **{"on_source_error": "stop", **more},
    }
    if command == "drive-mirror":
        named = {"target": m.uri(), "mode": "existing", "format": "raw", "node_name": "far"}
        m.qmp("drive-mirror", **options, **named)
    else:
        server = {"type": "unix", "path": m.there.nbd_socket}
        m.qmp("blockdev-add", driver="nbd", node_name="far", server=server, export="vda")
        m.qmp("blockdev-mirror", **options, target="far")


def stopped(qmp: Qmp) -> tuple[str, str]:
    """Wait until the job has stopped for an error; the operation and the io-status."""
    error = qmp.wait_event("BLOCK_JOB_ERROR").data
    assert error["action"] == "stop"
    qmp.wait_event("JOB_STATUS_CHANGE", status="paused")
    (entry,) = qmp("query-block-jobs")
    return error["operation"], entry["io-status"]


def errors_until_ready(qmp: Qmp, job: str = "j") -> list[str]:
    """Resume the job whenever it has stopped, until it is ready; its io-status each time."""
    seen: list[str] = []
    while True:
        event = qmp.wait_event("JOB_STATUS_CHANGE").data
        if event["status"] == "ready":
            return seen
        if event["status"] == "paused":
            (entry,) = qmp("query-block-jobs")
            seen.append(entry["io-status"])
            qmp("block-job-resume", device=job)


def failed(qmp: Qmp) -> bool:
    """Whether a job is there that has stopped for an error."""
    return any(entry["io-status"] != "ok" for entry in qmp("query-block-jobs"))


def finish(qmp: Qmp, job: str = "j") -> None:
    """Complete the job; resume it when it has stopped for an error after it was ready.

    With copy-mode=write-blocking a guest's write may fail on the target while the job flushes
    and turns ready: the job is ready first, and in standby at its next pause point, as in QEMU.
    A drain puts it in standby too, and ends by itself.
    """
    qmp("job-complete", id=job)
    while (event := qmp.wait_event("JOB_STATUS_CHANGE").data)["status"] != "null":
        assert event["id"] == job
        if event["status"] == "standby" and failed(qmp):
            qmp("block-job-resume", device=job)
    assert qmp("query-block-jobs") == []


@pytest.mark.slow
@pytest.mark.parametrize("copy_mode", ["background", "write-blocking"])
@pytest.mark.parametrize("command", ["drive-mirror", "blockdev-mirror"])
def test_a_guest_moves_while_it_writes(tmp_path: Path, command: str, copy_mode: str) -> None:
    """An ENOSPC over there, an EIO on the way, an EIO of the source; fio notices nothing."""
    with machines(tmp_path) as m:
        m.far("x-fault-add", node_name="vda", iotype="write", errno="ENOSPC", after=2, count=1)
        with subprocess.Popen(
            fio(m.here.uri("vda"), "--do_verify=0"), stdout=subprocess.PIPE, text=True
        ) as guest:
            mirror(m, command, copy_mode=copy_mode)
            assert stopped(m.qmp) == ("write", "nospace")
            for node, iotype in (("far", "write"), ("vda", "read")):
                # A guest's own write to the target would use it up before the job is resumed.
                rule = {"iotype": iotype, "errno": "EIO", "count": 1, "origin": "job"}
                m.qmp("x-fault-add", node_name=node, **rule)
                m.qmp("block-job-resume", device="j")
                assert stopped(m.qmp) == (iotype, "failed")
            m.qmp("block-job-resume", device="j")
            assert errors_until_ready(m.qmp) == []
            finish(m.qmp)
            out, _ = guest.communicate(timeout=TIMEOUT_S)
            assert guest.returncode == 0 and out.split(";")[4] == "0"
        assert m.qmp("query-status")["running"]
        (drive,) = m.qmp("query-block")
        assert drive["inserted"]["node-name"] == "far" and drive["io-status"] == "ok"
        verified = fio(m.uri(), "--verify_only")
        done = subprocess.run(verified, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout.split(";")[4] == "0", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("copy_mode", ["background", "write-blocking"])
def test_the_copy_is_exact(tmp_path: Path, copy_mode: str) -> None:
    """A guest writes until the job has nothing more to copy; then the machine changes over."""
    with machines(tmp_path) as m:
        mirror(m, "drive-mirror", copy_mode=copy_mode, on_target_error="enospc")
        m.far("x-fault-add", node_name="vda", iotype="write", errno="ENOSPC", count=3)
        with m.here.guest("vda") as guest:
            rng = random.Random(copy_mode)
            for _ in range(200):
                length = rng.choice([512, 4096, 100_000])
                guest.pwrite(rng.randbytes(length), rng.randrange((SIZE - length) // 512) * 512)
                if rng.random() < 0.2:
                    guest.zero(BLOCK, rng.randrange(SIZE // BLOCK) * BLOCK)
            stops = errors_until_ready(m.qmp)
            assert set(stops) <= {"nospace"}
            finish(m.qmp)
            guest.pwrite(b"afterwards" * 50, 512)
            guest.flush()
        source, target = (image.read_bytes() for image in m.images())
    assert target[512:1012] == b"afterwards" * 50
    assert target[:512] + source[512:1012] + target[1012:] == source


@pytest.mark.slow
def test_the_far_machine_stops_and_nobody_here_notices(tmp_path: Path) -> None:
    """With werror=enospc over there the request is held, not failed: the job just waits."""
    with machines(tmp_path, "enospc", ",file.x-physical-size=1M") as m:
        mirror(m, "drive-mirror")
        with m.here.guest("vda") as guest:
            m.far.wait_event("STOP")
            guest.pwrite(b"x" * BLOCK, 0)
            assert guest.pread(BLOCK, 0) == b"x" * BLOCK
            assert m.qmp("query-block-jobs")[0]["status"] == "running"
            m.far("x-volume-extend", node_name="vda", size=SIZE)
            m.far("cont")
            assert errors_until_ready(m.qmp) == []
            finish(m.qmp)
        source, target = (image.read_bytes() for image in m.images())
    assert target == source


def local(directory: Path, target: str, *more: str) -> Live:
    (directory / "disk.img").write_bytes(random.Random(5).randbytes(SIZE))
    if target == "qcow2":
        create(directory / "copy.img", SIZE)
    else:
        make_image(directory / "copy.img", SIZE)
    return Live(directory, f"drive=id=vda,file=disk.img,format=raw,{STOPS}", *more)


def add_copy(qmp: Qmp, driver: str, **more: Any) -> None:
    file = {"driver": "file", "node-name": "volume", "filename": "copy.img", **more}
    qmp("blockdev-add", driver=driver, node_name="copy", file=file)


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["raw", "qcow2"])
def test_a_volume_runs_full_under_a_mirror(tmp_path: Path, driver: str) -> None:
    """The job stops as often as there is no room, the guest never does."""
    with local(tmp_path, driver) as live, live.qmp() as qmp, live.guest("vda") as guest:
        add_copy(qmp, driver, **{"x-physical-size": 2 * MIB})
        qmp(
            "blockdev-mirror",
            **{"job_id": "j", "device": "vda", "target": "copy", "sync": "full"},
            on_target_error="enospc",
        )
        room, stops = 2 * MIB, 0
        while True:
            status = qmp.wait_event("JOB_STATUS_CHANGE")["status"]
            if status == "ready":
                break
            if status != "paused":
                continue
            stops += 1
            (job,) = qmp("query-block-jobs")
            assert job["io-status"] == "nospace"
            guest.pwrite(bytes([stops]) * BLOCK, room)
            assert guest.pread(BLOCK, room) == bytes([stops]) * BLOCK
            assert qmp("query-status")["running"]
            assert qmp("query-block")[0]["io-status"] == "ok"
            room += 5 * MIB
            qmp("x-volume-extend", node_name="copy" if driver == "raw" else "volume", size=room)
            qmp("block-job-resume", device="j")
            (job,) = qmp("query-block-jobs")
            assert job["io-status"] in ("ok", "nospace")
        assert stops >= 2
        finish(qmp)
    copied = (tmp_path / "copy.img").read_bytes() if driver == "raw" else None
    copied = copied or content(tmp_path / "copy.img")
    assert copied == (tmp_path / "disk.img").read_bytes()


@pytest.mark.slow
def test_the_drives_own_volume_runs_full_under_a_job(tmp_path: Path) -> None:
    """The job's filter is over the drive's image; the drive's name still means its volume."""
    make_image(tmp_path / "disk.img", SIZE)
    make_image(tmp_path / "copy.img", SIZE)
    drive = f"drive=id=vda,file=disk.img,format=raw,{STOPS},file.x-physical-size=1M"
    with Live(tmp_path, drive) as live, live.qmp() as qmp, live.guest("vda") as guest:
        add_copy(qmp, "raw")
        qmp("blockdev-mirror", job_id="j", device="vda", target="copy", sync="full")
        assert errors_until_ready(qmp) == []
        held = guest.aio_pwrite(b"full" * 128, MIB)
        qmp.wait_event("STOP")
        qmp("x-volume-extend", node_name="vda", add=MIB)
        qmp("cont")
        while not guest.aio_command_completed(held):
            guest.poll(-1)
        finish(qmp)
    assert (tmp_path / "copy.img").read_bytes() == (tmp_path / "disk.img").read_bytes()


@pytest.mark.slow
def test_a_broken_target_is_not_the_guests_affair(tmp_path: Path) -> None:
    """Errors of one job's target, again and again; two drives go on, and so does the job."""
    make_image(tmp_path / "other.img", SIZE)
    more = f"drive=id=vdb,file=other.img,format=raw,{STOPS}"
    with local(tmp_path, "raw", more) as live, live.qmp() as qmp, live.qmp() as listener:
        add_copy(qmp, "raw")
        qmp("x-fault-add", node_name="copy", errno="EIO")
        qmp(
            "blockdev-mirror",
            **{"job_id": "j", "device": "vda", "target": "copy", "sync": "full"},
            on_target_error="ignore",
        )
        for drive in ("vda", "vdb"):
            with live.guest(drive) as guest:
                for n in range(40):
                    guest.pwrite(bytes([n]) * BLOCK, n * BLOCK)
                    assert guest.pread(BLOCK, n * BLOCK) == bytes([n]) * BLOCK
                guest.flush()
        assert listener.wait_event("BLOCK_JOB_ERROR")["action"] == "ignore"
        qmp("x-fault-clear", node_name="copy")
        assert errors_until_ready(qmp) == []
        finish(qmp)
        assert qmp("query-status")["running"]
        listener("query-status")
        names = {event.name for event in listener.events}
        assert not names & {"STOP", "BLOCK_IO_ERROR"}
    assert (tmp_path / "copy.img").read_bytes() == (tmp_path / "disk.img").read_bytes()


@pytest.mark.slow
def test_a_drive_and_its_job_stop_at_the_same_time(tmp_path: Path) -> None:
    """Both say so, and each has to be set going by itself."""
    with local(tmp_path, "raw") as live, live.qmp() as qmp, live.guest("vda") as guest:
        add_copy(qmp, "raw")
        for turn in ("cont", "resume"):
            mark = qmp.mark()
            qmp("x-fault-add", node_name="copy", iotype="write", errno="EIO", count=1)
            qmp("x-fault-add", node_name="vda", iotype="write", errno="ENOSPC", count=1)
            qmp(
                "blockdev-mirror",
                **{"job_id": "j", "device": "vda", "target": "copy", "sync": "full"},
                on_target_error="stop",
            )
            error = qmp.wait_event("BLOCK_JOB_ERROR").data
            assert error == {"device": "j", "operation": "write", "action": "stop"}
            held = guest.aio_pwrite(turn.encode() * 128, 0)
            error = qmp.wait_event("BLOCK_IO_ERROR").data
            assert error["nospace"] and error["action"] == "stop"
            qmp.wait_event("STOP")
            qmp.wait_for(lambda: state(qmp)[0] == "paused")
            assert state(qmp) == ("paused", "failed", "io-error", "nospace")
            if turn == "cont":
                qmp("cont")
                assert state(qmp) == ("paused", "ok", "running", "ok")
                qmp("block-job-resume", device="j")
            else:
                qmp("block-job-resume", device="j")
                qmp.wait_event("BLOCK_JOB_READY", since=mark)
                assert state(qmp) == ("ready", "ok", "io-error", "nospace")
                qmp("cont")
            while not guest.aio_command_completed(held):
                guest.poll(-1)
            qmp.wait_for(lambda: state(qmp)[0] == "ready")
            qmp("block-job-cancel", device="j")
            qmp.wait_event("BLOCK_JOB_COMPLETED")
            qmp.wait_for(lambda: not qmp("query-block-jobs"))
    assert (tmp_path / "copy.img").read_bytes() == (tmp_path / "disk.img").read_bytes()


def state(qmp: Qmp) -> tuple[str, str, str, str]:
    """Of the job: status and io-status; of the machine: run state; of the drive: io-status."""
    (job,) = qmp("query-block-jobs")
    (drive,) = qmp("query-block")
    return job["status"], job["io-status"], qmp("query-status")["status"], drive["io-status"]
