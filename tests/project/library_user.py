# SPDX-License-Identifier: MIT
"""A program of a user who types everything, with all that the client library has.

`test_library_user.py` has it checked with `mypy --strict`, and runs it.
"""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any, assert_type

import faultline.aio
from faultline import (
    Bitmap,
    Check,
    CommandError,
    ConnectFailed,
    CrashClone,
    CrashReport,
    CrashResult,
    CrashState,
    Drive,
    Event,
    Fault,
    FaultlineError,
    Faults,
    Job,
    JobFailed,
    JobInfo,
    JobStopped,
    Machine,
    MachineEnded,
    Pattern,
    Responder,
    ServedDrive,
    StartFailed,
    Sweep,
    SweepRound,
    TimedOut,
    Volume,
    event,
    keep_spares,
)
from faultline.schema import BlockInfo, CrashStateInfo, FaultInfo, PowerCutInfo, StatusInfo

TARGET = {"driver": "null-co", "node-name": "target", "size": 8 << 20}


def drives() -> tuple[Drive, Drive]:
    """Return a drive that stops, and a thin one."""
    options = {"file.x-physical-size": "64k"}
    first = Drive(size="8M", id="vda", format="raw", rerror="stop", werror="stop", discard="unmap")
    second = Drive(Path("b.img"), format="raw", read_only=False, options=options)
    return first, second


def sync() -> None:
    """Use the synchronous face."""
    keep_spares(0)
    first, second = drives()
    assert_type(first.key(), str)
    with Machine(first, second, blockdevs=[TARGET], seed=1, name="m", timeout=30) as m:
        assert_type(m, Machine)
        assert (m.seed, m.status, bool(m.pid)) == (1, None, True)
        assert_type(m.drives, dict[str, ServedDrive])
        assert m.drives["vda"].uri == m.uri == str(m.drives["vda"])
        assert m.drives["vdb"].id == "vdb" and second.file == Path("b.img")
        commands(m)
        events(m)
        sweep(m)
        job(m.job("b"), m)
        volume(m.volume("vdb"))
        with m.bitmap("vda", "b0", granularity=65536) as b0, m.bitmap("vda", "b1") as b1:
            bitmap(b0, b1)
        with Machine.connect(m.control, timeout=30) as other:
            assert_type(other, Machine)
            assert other.pid is None
        m.kill()
        assert m.status == -9
    assert [line["event"] for line in m.log][:1] == ["serving"] and "serving" in m.log_text
    m.close()


def commands(m: Machine) -> None:
    """Use commands, typed and not, and rules."""
    assert_type(m.query_status(), StatusInfo)
    assert_type(m.query_block(), list[BlockInfo])
    assert_type(m.execute("query-name"), Any)
    with m.fault("vda", iotype="write", errno=errno.EIO, offset="64k", length=512) as rule:
        assert_type(rule, Fault)
        assert_type(m.x_query_faults(), list[FaultInfo])
        assert rule.info()["id"] == rule.id and rule.hits() == 0
        assert_type(rule.warnings, tuple[str, ...])
        rule.modify(errno="ENOSPC", offset="1M", count=2)
        assert_type(rule.release(), int)
        try:
            assert_type(rule.wait(2, timeout=0.001), int)
        except TimedOut as exc:
            assert_type(exc, TimedOut)
    m.barrier("vda")
    m.barrier(timeout=10)
    m.fault("vda", errno="EIO", count=1).remove()
    assert_type(m.x_query_seed()["seed"], int)
    with m.faults("vda,id=first,iotype=read", {"node-name": "vda", "action": "drop"}) as rules:
        assert_type(rules, Faults)
        assert_type(rules.ids, list[str])
        assert_type(rules.warnings, list[str])
        saved = m.saved_faults()
    with open("rules.faults", "w") as file:
        file.write(saved)
    m.load_faults("rules.faults").remove()
    with m.import_faults("dm-flakey", "0 2048 flakey /dev/sdb 0 30 5 1 drop_writes", "vda"):
        assert len(m.x_query_faults()) == 2
    try:
        m.block_resize(device="none", size="1M", timeout=10)
    except CommandError as exc:
        assert_type(exc.error_class, str)
        assert exc.command == "block_resize" and exc.text in str(exc)


def sweep(m: Machine) -> None:
    """Let one request after the other be hit."""
    rounds = []
    kinds = ["write", "write-zeroes"]
    with m.sweep("target", iotype=kinds, action="delay", delay_ms=1, limit=9) as sweep:
        assert_type(sweep, Sweep)
        for hit in sweep:
            assert_type(hit, SweepRound)
            m.blockdev_backup(device="vda", target="target", sync="full", job_id=f"s{hit.nth}")
            m.job(f"s{hit.nth}").wait(timeout=10)
            rounds.append((hit.nth, str(hit), hit.fired()))
    assert rounds[0] == (1, "with the 1st write or write-zeroes delayed", True)
    assert [fired for _, _, fired in rounds] == [True] * (len(rounds) - 1) + [False]


def explored() -> None:
    """Check what a crash might leave."""
    disk = Drive(size="1M", format="raw", options={"cache.x-volatile": True})
    with Machine(disk, timeout=30) as m:
        report = m.explore("vda", Check("nbdinfo", "{uri}", timeout=20), workload=lambda: None)
        assert_type(report, CrashReport)
        assert report.ok and report.moments == 1 and not report.sampled and not report.failures
        (result,) = report.results
        assert_type(result, CrashResult)
        assert result.ok and result.wrong is None
        report = m.explore("vda", look, only=result.name, at_once=1, limit=9, torn=False)
        assert str(report).startswith("1 state of 1 moment, 1 of them wrong:")


def look(crash: CrashState) -> str:
    """Find something wrong in each state."""
    return f"{crash.moment} {crash.state} {crash.uri}"


def events(m: Machine) -> None:
    """Use events."""
    mark = m.mark()
    m.stop()
    stop = m.wait_event("STOP", timeout=10, since=mark)
    assert_type(stop, Event)
    assert (stop.name, stop.data, stop.get("x", 1)) == ("STOP", {}, 1) and stop.time
    m.cont()
    m.stop()
    m.cont()
    resume = Pattern.of("RESUME")
    assert_type(m.expect(resume, event("STOP"), timeout=10), list[Event])
    assert m.wait_any("RESET", resume, timeout=10).name == resume.name
    assert resume.fits(m.events[-1]) and not resume.members
    assert m.journal.count == len(m.events) == 4
    try:
        m.wait_event("RESET", timeout=0)
    except TimedOut as exc:
        assert str(exc).startswith("no RESET within 0 s")


def job(b: Job, m: Machine) -> None:
    """Use a job, from its start to its failure."""
    m.blockdev_backup(
        device="vda", target="target", sync="full", job_id=b.id, speed=1,
        auto_finalize=False, auto_dismiss=False, on_target_error="stop",
    )  # fmt: skip
    b.pause()
    b.resume()
    with m.fault("target", errno="ENOSPC", count=1):
        b.set_speed(0)
        try:
            b.wait("pending")
        except JobStopped as stop:
            assert (stop.job, stop.io_status) == ("b", "nospace")
    info = b.info()
    assert_type(info, JobInfo)
    assert info.stopped and (info.id, info.type) == ("b", "backup")
    b.resume()
    b.wait("pending", timeout=10)
    assert b.progress() == 1.0
    b.finalize()
    b.wait()
    b.dismiss()
    m.blockdev_mirror(device="vda", target="target", sync="full", job_id="m")
    mirror = m.job("m")
    mirror.wait("ready")
    mirror.cancel(force=True)
    try:
        mirror.wait()
    except JobFailed as failed:
        assert (failed.job, failed.error) == ("m", None)
    m.blockdev_mirror(device="vda", target="target", sync="full", job_id="m")
    mirror.wait("ready")
    mirror.complete()
    mirror.wait()


def volume(thin: Volume) -> None:
    """Use a thin volume."""
    thin.extend("128k")
    thin.extend(add=65536, latency_ms=1, timeout=10)
    assert thin.info()["physical-size"] == 3 << 16
    with thin.responder(chunk=65536, threshold=4096) as manager:
        assert_type(manager, Responder)
        assert manager.node == thin.node
    thin.responder(chunk=65536).stop()


def bitmap(b0: Bitmap, b1: Bitmap) -> None:
    """Use bitmaps."""
    b0.disable()
    b0.enable()
    b0.merge(b1.name)
    b0.clear()
    assert b0.count() == 0 and b0.info()["granularity"] == 65536


def failures() -> None:
    """Meet the errors of starts and ends."""
    for make, kind in (
        (lambda: Machine.connect("nowhere"), ConnectFailed),
        (lambda: Machine("nowhere").start(), StartFailed),
        (lambda: Machine().cont(), FaultlineError),
    ):
        try:
            make()
        except FaultlineError as exc:
            assert isinstance(exc, kind)
    with Machine(Drive(size="1M")) as m:
        m.quit()
        try:
            m.wait_event("STOP", timeout=10)
        except MachineEnded as exc:
            assert isinstance(exc, ConnectionError)


async def asynchronous() -> None:
    """Use the face for asyncio."""
    async with faultline.aio.Machine(*drives(), timeout=30) as m:
        assert_type(m, faultline.aio.Machine)
        assert_type(await m.query_status(), StatusInfo)
        assert_type(await m.execute("query-name"), Any)
        async with m.fault("vda", iotype="write", errno="EIO") as rule:
            assert_type(rule, faultline.aio.Fault)
            assert await rule.hits() == 0
        await (await m.fault("vda")).remove()
        async with m.sweep("vda", iotype="write", offset="1M", length=512) as sweep:
            assert_type(sweep, faultline.aio.Sweep)
            async for hit in sweep:
                assert_type(hit, faultline.aio.SweepRound)
                assert not await hit.fired()
                break
        async with m.faults("vda,iotype=read") as rules:
            assert_type(rules, faultline.aio.Faults)
        await m.stop()
        await m.cont()
        assert_type(await m.wait_event("STOP"), Event)
        assert_type(await m.wait_any("RESUME"), Event)
        await m.stop()
        assert_type(await m.expect("STOP"), list[Event])
        await m.cont()
        thin: faultline.aio.Volume = m.volume("vdb")
        await thin.extend(add="64k")
        async with thin.responder(chunk=65536) as manager:
            assert_type(manager, faultline.aio.Responder)
        async with m.bitmap("vda", "b0") as b0:
            assert_type(b0, faultline.aio.Bitmap)
            assert await b0.count() == 0
        await m.blockdev_add(driver="null-co", node_name="target", size=8 << 20)
        await m.blockdev_backup(device="vda", target="target", sync="full", job_id="b")
        backup: faultline.aio.Job = m.job("b")
        await backup.wait(timeout=10)
        async with faultline.aio.Machine.connect(m.control) as other:
            assert await other.query_name() == {}
        await m.blockdev_add(
            driver="x-volatile-cache", node_name="v", file={"driver": "null-co"}
        )
        async with m.crash_clone("v") as clone:
            assert_type(clone, faultline.aio.CrashClone)
        await m.kill()
    cached = Drive(size="1M", format="raw", options={"cache.x-volatile": True})
    async with faultline.aio.Machine(cached) as m:
        assert_type(await m.explore("vda", Check("nbdinfo", "{uri}")), CrashReport)


def power() -> None:
    """Lose what a drive has not flushed, and look at what a crash would leave."""
    with Machine(Drive(size="1M", id="vda", volatile=True), seed=1) as m:
        assert_type(m.crash_states("vda", limit=10, torn=False), list[CrashStateInfo])
        with m.crash_clone("vda", "none", export="after") as clone:
            assert_type(clone, CrashClone)
            assert clone.export == "after" and str(clone) == clone.uri and clone.uri != m.uri
            assert clone.state == clone.info["state"]
        m.crash_clone("vda", keep="random", seed=1, torn=True).drop()
        assert_type(m.power_cut("vda", keep="prefix", seed=2), PowerCutInfo)
        assert m.power_cut(keep="random", torn=True)["dropped"] == 0


if __name__ == "__main__":
    sync()
    power()
    failures()
    explored()
    asyncio.run(asynchronous())
