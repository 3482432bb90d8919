# SPDX-License-Identifier: MIT
"""Scenarios for `record_golden.py`: block jobs, what is said of them, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recorder import Recorder, Scenario

DEVICE = " -device virtio-blk-pci,drive=drive0,id=vd0,addr=4,disable-modern=on,disable-legacy=off"

COPY = (
    "-drive if=none,id=drive0,node-name=src,driver=raw,file.driver=blkdebug,file.config=src.conf,"
    "file.image.driver=file,file.image.filename=src.raw"
    " -blockdev driver=raw,node-name=dst,file.driver=blkdebug,file.config=dst.conf,"
    "file.image.driver=file,file.image.filename=dst.raw" + DEVICE
)

COPY_IMAGES = (
    "qemu-img create -f raw src.raw 2M",
    "qemu-io -f raw -c 'write -P 0x11 0 2M' src.raw",
    "qemu-img create -f raw dst.raw 2M",
    "qemu-img create -f raw small.raw 1M",
    "qemu-img create -f qcow2 dst.qcow2 2M",
)

CHAIN = (
    "-drive if=none,id=drive0,node-name=top,driver=qcow2,file.driver=file,file.filename=top.qcow2,"
    "backing.node-name=mid,backing.backing.node-name=low,backing.backing.backing.node-name=base"
    " -blockdev driver=raw,node-name=other,file.driver=file,file.filename=other.raw" + DEVICE
)

CHAIN_IMAGES = (
    "qemu-img create -f raw base.raw 2M",
    "qemu-io -f raw -c 'write -P 0x11 0 2M' base.raw",
    "qemu-img create -f qcow2 -b base.raw -F raw low.qcow2",
    "qemu-io -f qcow2 -c 'write -P 0x22 0 512k' low.qcow2",
    "qemu-img create -f qcow2 -b low.qcow2 -F qcow2 mid.qcow2",
    "qemu-io -f qcow2 -c 'write -P 0x33 256k 512k' mid.qcow2",
    "qemu-img create -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2",
    "qemu-io -f qcow2 -c 'write -P 0x44 1M 64k' top.qcow2",
    "qemu-img create -f raw other.raw 2M",
)

STREAM = (
    "-drive if=none,id=drive0,node-name=top,driver=qcow2,file.driver=file,"
    "file.filename=top.qcow2,backing.node-name=base" + DEVICE
)

STREAM_IMAGES = (
    "qemu-img create -f raw base.raw 2M",
    "qemu-io -f raw -c 'write -P 0x11 0 2M' base.raw",
    "qemu-img create -f qcow2 -b blkdebug:blkdebug.conf:base.raw -F raw top.qcow2",
)

EIO, ENOSPC = 5, 28

SLOW = 64 << 10

SCENARIOS: dict[str, Scenario] = {}

Run = Callable[[Recorder], None]


def rule(event: str, number: int, sector: int, once: str = "on") -> str:
    """One error of a blkdebug configuration."""
    keys = {"event": event, "errno": number, "sector": sector, "once": once}
    return "[inject-error]\n" + "".join(f'{key} = "{value}"\n' for key, value in keys.items())


def scenario(options: str, setup: tuple[str, ...], **files: str) -> Callable[[Run], Run]:
    """Add one; `files` are the contents of NAME.conf."""

    def add(run: Run) -> Run:
        name = run.__name__.replace("_", "-")
        named = {f"{file}.conf": text for file, text in files.items()}
        SCENARIOS[name] = Scenario(run=run, options=options, setup=setup, files=named)
        return run

    return add


def copies(**files: str) -> Callable[[Run], Run]:
    return scenario(COPY, COPY_IMAGES, **{"src": "", "dst": "", **files})


def streams(*rules: str) -> Callable[[Run], Run]:
    return scenario(STREAM, STREAM_IMAGES, blkdebug="\n".join(rules))


chains = scenario(CHAIN, CHAIN_IMAGES)


def do(r: Recorder, command: str, **arguments: Any) -> Any:
    """A command, and all that comes of it."""
    named = {key.replace("_", "-"): value for key, value in arguments.items()}
    reply = r.qmp(command, named)
    r.settle()
    return reply


def jobs(r: Recorder) -> None:
    r.qmp("query-block-jobs")
    r.qmp("query-jobs")


def look(r: Recorder) -> None:
    """All that can be seen of drives, nodes and jobs."""
    jobs(r)
    r.qmp("query-block")
    r.qmp("query-named-block-nodes", {"flat": True})


def mirror(r: Recorder, **more: Any) -> Any:
    given = {"job_id": "job0", "device": "drive0", "target": "dst", "sync": "full", **more}
    return do(r, "blockdev-mirror", **given)


def backup(r: Recorder, **more: Any) -> Any:
    given = {"job_id": "job0", "device": "drive0", "target": "dst", "sync": "full", **more}
    return do(r, "blockdev-backup", **given)


def stream(r: Recorder, **more: Any) -> Any:
    return do(r, "block-stream", **{"job_id": "job0", "device": "drive0", **more})


def commit(r: Recorder, **more: Any) -> Any:
    return do(r, "block-commit", **{"job_id": "job0", "device": "drive0", **more})


@streams(rule("read_aio", ENOSPC, 1024), rule("read_aio", EIO, 2048))
def stream_two_ignored_errors(r: Recorder) -> None:
    """the first of two ignored errors is the one that the job ends with"""
    stream(r, on_error="ignore")
    look(r)


@streams(rule("read_aio", EIO, 1024))
def stream_stop_cont_cancel(r: Recorder) -> None:
    """cont resets the io-status of a stopped job and leaves it paused; it is cancelled by force"""
    stream(r, on_error="stop")
    jobs(r)
    do(r, "stop")
    do(r, "cont")
    jobs(r)
    do(r, "block-job-cancel", device="job0")
    do(r, "block-job-pause", device="job0")
    do(r, "block-job-set-speed", device="job0", speed=1 << 20)
    jobs(r)
    do(r, "block-job-cancel", device="job0", force=True)
    look(r)


@chains
def stream_within_chain(r: Recorder) -> None:
    """to images in the middle, with base, bottom and another name for the backing file"""
    stream(r, device="mid", base_node="base", backing_file="other.raw")
    look(r)
    stream(r, device="drive0", bottom="mid")
    look(r)
    stream(r, device="drive0", base="base.raw")
    stream(r)
    look(r)


@chains
def stream_parallel(r: Recorder) -> None:
    """two jobs on disjoint parts of a chain, and what they refuse to each other"""
    stream(r, job_id="a", device="drive0", base_node="mid", speed=SLOW)
    stream(r, job_id="b", device="mid", base_node="base", speed=SLOW, filter_node_name="cor")
    look(r)
    stream(r, job_id="c", device="low")
    commit(r, job_id="c", top_node="mid", base_node="low")
    commit(r, job_id="c")
    do(r, "block_resize", node_name="mid", size=4 << 20)
    do(r, "block_resize", device="drive0", size=4 << 20)
    do(r, "change-backing-file", device="drive0", image_node_name="mid", backing_file="x")
    do(r, "blockdev-del", node_name="other")
    do(r, "block-job-cancel", device="b")
    do(r, "block-job-cancel", device="a")
    look(r)


@chains
def commit_within_chain(r: Recorder) -> None:
    """images by file name and by node, with another name for the backing file"""
    commit(r, top="mid.qcow2", base="low.qcow2", backing_file="low2.qcow2")
    look(r)
    commit(r, top_node="low", filter_node_name="ct", speed=SLOW)
    look(r)
    do(r, "block-job-cancel", device="job0")
    commit(r, base_node="low")
    look(r)
    do(r, "block-job-complete", device="job0")
    look(r)


@chains
def commit_active_cancelled(r: Recorder) -> None:
    """a ready active commit is cancelled, gently and by force"""
    commit(r, base_node="low")
    look(r)
    do(r, "block-job-cancel", device="job0")
    look(r)
    commit(r, base_node="mid", auto_dismiss=False)
    r.io(("write", 0), ("write", 1024))
    do(r, "job-cancel", id="job0")
    jobs(r)
    do(r, "job-dismiss", id="job0")
    look(r)


@copies(dst=rule("write_aio", ENOSPC, 2048))
def mirror_standby(r: Recorder) -> None:
    """ready, paused by the user, completed while it is paused, finalized by hand"""
    mirror(r, on_target_error="ignore", auto_finalize=False, auto_dismiss=False)
    do(r, "job-pause", id="job0")
    jobs(r)
    do(r, "job-pause", id="job0")
    do(r, "block-job-cancel", device="job0")
    do(r, "job-complete", id="job0")
    do(r, "job-complete", id="job0")
    jobs(r)
    do(r, "job-resume", id="job0")
    jobs(r)
    do(r, "job-finalize", id="job0")
    look(r)
    do(r, "job-finalize", id="job0")
    do(r, "job-dismiss", id="job0")
    look(r)


@copies()
def mirror_pending_cancelled(r: Recorder) -> None:
    """cancelled while it waits to be finalized"""
    mirror(r, auto_finalize=False)
    do(r, "job-complete", id="job0")
    jobs(r)
    do(r, "block-job-cancel", device="job0")
    look(r)
    mirror(r, auto_finalize=False, auto_dismiss=False)
    do(r, "block-job-complete", device="job0")
    do(r, "job-cancel", id="job0")
    look(r)
    do(r, "job-cancel", id="job0")
    do(r, "block-job-dismiss", id="job0")


@copies()
def mirror_ready_job_cancel(r: Recorder) -> None:
    """job-cancel is always by force"""
    mirror(r)
    do(r, "job-cancel", id="job0")
    look(r)


@copies()
def mirror_filter_and_replaces(r: Recorder) -> None:
    """with a name for the filter; what can be replaced, and what is refused meanwhile"""
    for name in ("nope", "dst"):
        mirror(r, replaces=name)
    do(r, "blockdev-add", driver="raw", node_name="small", file=_file("small.raw"))
    mirror(r, target="small")
    mirror(r, replaces="src", filter_node_name="top", granularity=4096, buf_size=1)
    look(r)
    r.qmp("query-blockstats")
    mirror(r, job_id="job1")
    backup(r, job_id="job1")
    do(r, "blockdev-del", node_name="dst")
    do(r, "block-dirty-bitmap-add", node="src", name="b")
    do(r, "blockdev-snapshot-sync", device="drive0", snapshot_file="s.qcow2")
    do(r, "block_resize", device="drive0", size=4 << 20)
    do(r, "block_resize", node_name="dst", size=4 << 20)
    for request in (("write", 0), ("write_zeroes", 8), ("read", 0)):
        r.io(request)
    do(r, "job-complete", id="job0")
    look(r)


@copies(dst=rule("write_aio", ENOSPC, 3072))
def mirror_write_blocking_stop(r: Recorder) -> None:
    """a guest's write that the target has no room for succeeds, and the job stops"""
    given = {"copy_mode": "write-blocking", "on_target_error": "stop", "sync": "none"}
    mirror(r, **given)
    look(r)
    r.io(("write", 0), ("write", 1))
    jobs(r)
    r.io(("write", 3072))
    jobs(r)
    r.io(("write", 3073), ("write", 8))
    jobs(r)
    do(r, "job-resume", id="job0")
    jobs(r)
    do(r, "job-complete", id="job0")
    look(r)


@copies(src=rule("read_aio", EIO, 2048), dst=rule("flush_to_disk", ENOSPC, -1))
def mirror_all_kinds_fail(r: Recorder) -> None:
    """a read of the source, then the flush that comes before ready, both stop the job"""
    mirror(r, on_source_error="stop", on_target_error="stop")
    jobs(r)
    do(r, "block-job-resume", device="job0")
    jobs(r)
    do(r, "block-job-resume", device="job0")
    do(r, "block-job-resume", device="job0")
    jobs(r)
    do(r, "job-cancel", id="job0")


@copies()
def mirror_sync_modes(r: Recorder) -> None:
    """to new images of either format, and to one that is there"""
    new = {"job_id": "job0", "device": "drive0", "format": "qcow2"}
    do(r, "drive-mirror", **new, target="none.qcow2", sync="none", node_name="none")
    r.io(("write", 0), ("write", 2048))
    look(r)
    do(r, "job-cancel", id="job0")
    do(r, "drive-mirror", **new, target="dst.qcow2", sync="full", mode="existing")
    do(r, "block-job-cancel", device="job0")
    do(r, "drive-mirror", job_id="job0", device="drive0", target="new.raw", sync="top")
    look(r)
    do(r, "job-complete", id="job0")
    look(r)


@copies()
def mirror_refused_images(r: Recorder) -> None:
    """what drive-mirror and drive-backup say of targets that cannot be"""
    full = {"job_id": "job0", "device": "drive0", "sync": "full"}
    for command in ("drive-mirror", "drive-backup"):
        do(r, command, **full, target="missing", mode="existing")
        do(r, command, **full, target="nowhere/new.raw")
        do(r, command, **full, target="new", format="nope")
        do(r, command, **full, target="new:new")
        do(r, command, **full, target="small.raw", mode="existing", format="raw")
        do(r, command, **{**full, "sync": "none"}, target="new.raw")
        do(r, command, **{**full, "device": "nope"}, target="new.raw")
        do(r, command, **{**full, "job_id": "9"}, target="new.raw")
        do(r, command, **full, target="src.raw")
    do(r, "drive-mirror", **full, target="new.raw", replaces="src")
    do(r, "drive-mirror", **full, target="new.raw", granularity=1000)
    do(r, "drive-mirror", **full, target="new.raw", node_name="src")
    do(r, "drive-mirror", **{**full, "sync": "bitmap"}, target="new.raw")
    look(r)


@copies()
def backup_arguments(r: Recorder) -> None:
    """what blockdev-backup refuses"""
    backup(r, sync="bitmap")
    backup(r, sync="incremental")
    backup(r, bitmap="b")
    do(r, "block-dirty-bitmap-add", node="src", name="b")
    backup(r, bitmap="b")
    backup(r, sync="bitmap", bitmap="b")
    backup(r, sync="none", bitmap="b", bitmap_mode="always")
    backup(r, sync="full", bitmap="b", bitmap_mode="never")
    backup(r, sync="incremental", bitmap="b", bitmap_mode="never")
    backup(r, bitmap_mode="never")
    backup(r, sync="bitmap", bitmap_mode="never")
    backup(r, target="src")
    backup(r, target="nope")
    backup(r, device="nope")
    backup(r, compress=True)
    backup(r, speed=-1)
    backup(r, x_perf={"max-workers": 0})
    backup(r, x_perf={"max-chunk": -1})
    backup(r, x_perf={"max-chunk": 512})
    do(r, "blockdev-add", driver="raw", node_name="small", file=_file("small.raw"))
    backup(r, target="small")
    look(r)


@copies()
def backup_bitmaps(r: Recorder) -> None:
    """bitmaps while a job uses them, with full, top and bitmap"""
    do(r, "block-dirty-bitmap-add", node="src", name="b")
    r.io(("write", 0), ("write", 2048))
    given = {"bitmap": "b", "bitmap_mode": "on-success", "speed": 1}
    backup(r, sync="bitmap", filter_node_name="cbw", **given)
    look(r)
    r.io(("write", 1024), ("write", 2048))
    look(r)
    for verb in ("clear", "enable", "disable", "remove"):
        do(r, f"block-dirty-bitmap-{verb}", node="src", name="b")
    do(r, "block-dirty-bitmap-merge", node="src", target="b", bitmaps=["b"])
    do(r, "job-cancel", id="job0")
    look(r)
    backup(r, sync="full", bitmap="b", bitmap_mode="always")
    look(r)
    r.io(("write", 512))
    backup(r, sync="top", bitmap="b", bitmap_mode="on-success")
    look(r)


@copies(dst=rule("write_aio", ENOSPC, 0, once="off"))
def backup_none_target_error(r: Recorder) -> None:
    """guests' writes stop the machine because the target of a backup has no room"""
    backup(r, sync="none", on_target_error="report")
    r.io(("write", 0))
    look(r)
    do(r, "cont")
    look(r)
    do(r, "block-job-pause", device="job0")
    jobs(r)
    do(r, "block-job-cancel", device="job0", force=True)
    do(r, "cont")
    look(r)


@copies(src=rule("read_aio", ENOSPC, 2048), dst=rule("write_aio", EIO, 0))
def backup_stop_resume(r: Recorder) -> None:
    """stops of both sides; paused and resumed by the user; a limit that is changed"""
    backup(r, on_source_error="stop", on_target_error="stop", x_perf={"max-workers": 1})
    jobs(r)
    do(r, "job-resume", id="job0")
    jobs(r)
    do(r, "job-resume", id="job0")
    backup(r, speed=1)
    do(r, "job-pause", id="job0")
    jobs(r)
    do(r, "job-resume", id="job0")
    do(r, "block-job-set-speed", device="job0", speed=0)
    jobs(r)


@copies()
def backup_transactions(r: Recorder) -> None:
    """grouped, individual, pending, undone"""
    one: dict[str, Any] = {"job-id": "j1", "device": "drive0", "target": "dst", "sync": "full"}
    do(r, "blockdev-add", driver="qcow2", node_name="new", file=_file("dst.qcow2"))
    two = {"job-id": "j2", "device": "new", "target": "small2", "sync": "full"}
    do(r, "blockdev-add", driver="null-co", node_name="small2", size=2 << 20)

    def transaction(*actions: dict[str, Any], mode: str = "individual") -> None:
        typed = [{"type": "blockdev-backup", "data": data} for data in actions]
        do(r, "transaction", actions=typed, properties={"completion-mode": mode})

    transaction(one, {**two, "target": "nope"})
    transaction(one, {**two, "job-id": "j1"})
    transaction({**one, "auto-finalize": False}, two, mode="grouped")
    jobs(r)
    do(r, "job-finalize", id="j2")
    jobs(r)
    transaction({**one, "auto-finalize": False}, two, mode="grouped")
    do(r, "job-cancel", id="j2")
    look(r)


@copies()
def jobs_quit(r: Recorder) -> None:
    """quit with jobs that run, are paused, and have ended"""
    backup(r, job_id="ended", auto_dismiss=False)
    do(r, "job-dismiss", id="ended")
    mirror(r, speed=SLOW, buf_size=SLOW)
    do(r, "blockdev-add", driver="null-co", node_name="null", size=2 << 20)
    do(r, "blockdev-add", driver="null-co", node_name="null2", size=2 << 20)
    backup(r, job_id="job1", device="null", target="null2", sync="none")
    do(r, "job-pause", id="job1")


@copies()
def jobs_on_nothing(r: Recorder) -> None:
    """jobs without anything to copy, on nodes without a drive"""
    do(r, "blockdev-add", driver="null-co", node_name="zero", size=0)
    do(r, "blockdev-add", driver="null-co", node_name="zero2", size=0)
    mirror(r, device="zero", target="zero2")
    jobs(r)
    do(r, "job-complete", id="job0")
    backup(r, device="zero", target="zero2")
    do(r, "blockdev-mirror", device="zero", target="zero2", sync="full")
    stream(r, device="zero")
    commit(r, device="zero")
    commit(r)
    stream(r)
    look(r)


def _file(name: str) -> dict[str, Any]:
    return {"driver": "file", "filename": name}
