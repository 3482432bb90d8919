# SPDX-License-Identifier: MIT
"""The client library with real machines: both faces, deadlines, ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

import faultline.aio
from faultline import (
    CommandError,
    ConnectFailed,
    Drive,
    FaultlineError,
    JobFailed,
    JobStopped,
    Machine,
    MachineEnded,
    StartFailed,
    TimedOut,
    keep_spares,
)
from faultline.spares import spares
from live import Live, make_image

DRIVE = Drive(size="1M", id="vda", format="raw", rerror="stop", werror="stop")


def test_events_before_the_wait_are_not_missed() -> None:
    with Machine(DRIVE) as m:
        for _ in range(3):
            m.stop()
            m.cont()
        assert [m.wait_event("STOP").name for _ in range(3)] == ["STOP"] * 3
        mark = m.mark()
        with pytest.raises(TimedOut, match=r"^no STOP within 0 s; events that came: .*RESUME"):
            m.wait_event("STOP", timeout=0)
        with pytest.raises(TimedOut, match="no event came"):
            m.wait_event("RESUME", timeout=0, since=mark)
        assert len(m.events) == 6
    assert len(m.events) == 6


def test_a_wait_is_woken_by_what_comes() -> None:
    with Machine(DRIVE) as m:
        waiter = threading.Timer(0.0, m.stop)
        waiter.start()
        assert m.wait_event("STOP", timeout=30).name == "STOP"
        waiter.join()


def test_a_name_that_is_no_event_is_refused_at_once() -> None:
    with Machine(DRIVE) as m, pytest.raises(ValueError, match="Did you mean 'STOP'"):
        m.wait_event("STOPP")


def test_a_machine_that_is_killed_says_so() -> None:
    machine = Machine(DRIVE).start()
    assert machine.pid is not None
    os.kill(machine.pid, signal.SIGKILL)
    with pytest.raises(MachineEnded, match=r"status -9\) before cont was answered; its log ends"):
        machine.cont()
    with pytest.raises(MachineEnded, match="has ended with status -9"):
        machine.close()
    machine.close()
    with pytest.raises(MachineEnded, match="was closed"):
        machine.cont()


def test_the_end_of_a_block_does_not_hide_its_error() -> None:
    with pytest.raises(ZeroDivisionError) as caught, Machine(DRIVE) as m:
        assert m.pid is not None
        os.kill(m.pid, signal.SIGKILL)
        print(1 / 0)
    assert "status -9" in caught.value.__notes__[0]


def test_what_is_not_started() -> None:
    machine = Machine(DRIVE)
    with pytest.raises(FaultlineError, match="not started"):
        machine.cont()
    machine.close()
    with machine as m, pytest.raises(FaultlineError, match="is started already"):
        m.start()


def test_a_wrong_drive_leaves_nothing() -> None:
    with pytest.raises(StartFailed, match=r"^drive=file=no\.img,id=vda: Could not open 'no\.img'"):
        Machine("no.img").start()
    with pytest.raises(ValueError, match="drive 1 needs an id"):
        Machine(Drive("a", id="vdb"), "b")


def test_it_connects_to_a_machine_and_leaves_it(tmp_path: Path) -> None:
    make_image(tmp_path / "disk.img", 1 << 20)
    with Live(tmp_path, "drive=id=vda,file=disk.img,format=raw") as live:
        with Machine.connect(live.control) as m:
            assert m.pid is None and m.log == []
            m.stop()
        with Machine.connect(live.control) as m:
            assert m.query_status()["status"] == "paused"
            m.quit()
            with pytest.raises(MachineEnded, match=r"hung up before RESUME came"):
                m.wait_event("RESUME", timeout=30)


def test_what_is_no_control_socket(tmp_path: Path) -> None:
    for path, text in (("none", "No such file"), ("file", "is not a socket")):
        (tmp_path / "file").touch()
        with pytest.raises(ConnectFailed, match=f"{path}: {text}"):
            Machine.connect(tmp_path / path)
    for name, sent, text in (
        ("nbd", b"NBDMAGIC\n", "does not speak QMP"),
        ("mute", b"", "no QMP greeting within 0.2 s"),
        ("closing", None, "does not speak QMP"),
    ):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / name))
            server.listen()
            connecting = threading.Thread(target=greet, args=(server, sent))
            connecting.start()
            with pytest.raises(ConnectFailed, match=f"{name}: .*{text}"):
                Machine.connect(tmp_path / name, timeout=30 if name != "mute" else 0.2)
            connecting.join()


def greet(server: socket.socket, sent: bytes | None) -> None:
    client, _ = server.accept()
    with client:
        if sent is not None:
            client.sendall(sent)
            client.recv(1000)


def test_jobs_end_as_they_do(tmp_path: Path) -> None:
    with Machine(DRIVE) as m:
        copy = str(tmp_path / "copy")
        m.drive_backup(device="vda", sync="full", target=copy, format="raw", job_id="b0")
        m.job("b0").wait()
        m.job("b0").wait()
        with pytest.raises(LookupError, match="there is no job other"):
            m.job("other").wait()
        m.blockdev_add(driver="null-co", node_name="bad", size=1 << 20)
        with m.fault("bad", iotype="write-zeroes", errno="ENOSPC"):
            m.blockdev_backup(device="vda", target="bad", sync="full", job_id="b1",
                              on_target_error="stop")
            job = m.job("b1")
            with pytest.raises(JobStopped, match="io-status nospace"):
                job.wait()
            job.wait("stopped")
            assert (job.info().stopped, job.progress()) == (True, 0.0)
        job.resume()
        job.wait()
        with m.fault("bad", iotype="write-zeroes", errno="EIO"):
            m.blockdev_backup(device="vda", target="bad", sync="full", job_id="b1")
            with pytest.raises(JobFailed, match="job b1 has failed: Input/output error"):
                m.job("b1").wait()
        m.blockdev_mirror(device="vda", target="bad", sync="full", job_id="m")
        m.job("m").wait("ready")
        m.job("m").cancel(force=True)
        with pytest.raises(JobFailed, match="job m was cancelled"):
            m.job("m").wait()


def test_a_fault_rule_that_is_used_up_ends_without_an_error() -> None:
    with Machine(DRIVE) as m, m.fault("vda", iotype="read", errno="EIO", count=1) as fault:
        m.x_fault_remove(id=fault.id)
        with pytest.raises(LookupError):
            fault.hits()


def test_errors_of_commands_are_the_machines() -> None:
    with Machine(DRIVE) as m:
        with pytest.raises(CommandError, match="^block_resize: Cannot find device='x'") as caught:
            m.block_resize(device="x", size="1M")
        assert caught.value.error_class == "GenericError"


def test_spares_are_used_and_end() -> None:
    with Machine(DRIVE):
        (spare,) = spares._ready
    with Machine(DRIVE) as m:
        assert m.pid == spare.pid
    keep_spares(0)
    try:
        assert spares._ready == []
        with Machine(DRIVE) as m:
            assert m.pid != spare.pid and spares._ready == []
    finally:
        keep_spares(1)


def test_two_machines_at_once_and_their_options(tmp_path: Path) -> None:
    nbd, control = tmp_path / "n", tmp_path / "c"
    second = Machine(DRIVE, Drive(size="2M"), name="two", nbd=nbd, control=control)
    with Machine(DRIVE) as one, second as two:
        assert one.pid != two.pid
        assert list(two.drives) == ["vda", "vdb"]
        assert two.uri == f"nbd+unix:///vda?socket={tmp_path}/n"
        assert two.query_name() == {"name": "two"}
        assert two.control == str(tmp_path / "c")
    assert not list(tmp_path.iterdir())


def test_a_machine_that_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with Machine(DRIVE, record=path, record_data=False) as m:
        m.query_status()
    header, *lines = map(json.loads, path.read_text().splitlines())
    assert [line["execute"] for line in lines if "command" in line][-1] == "query-status"
    assert header["data"] is False


def test_asyncio() -> None:
    async def run() -> None:
        async with faultline.aio.Machine(DRIVE) as m, faultline.aio.Machine(DRIVE) as other:
            fault = await m.fault("vda", iotype="read", errno="EIO")
            assert await fault.hits() == 0
            waiting = asyncio.create_task(m.wait_event("STOP", timeout=30))
            await asyncio.gather(m.stop(), other.stop())
            assert (await waiting).name == "STOP"
            with pytest.raises(TimedOut):
                await m.wait_event("RESUME", timeout=0.01)
            async with faultline.aio.Machine.connect(m.control) as third:
                assert (await third.query_status())["status"] == "paused"
            await m.quit()
            with pytest.raises(MachineEnded, match=r"status 0\) before RESUME came"):
                await m.wait_event("RESUME", timeout=30)

    asyncio.run(run())
