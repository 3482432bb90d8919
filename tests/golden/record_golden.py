# SPDX-License-Identifier: MIT
"""The scenarios of tests/golden that this project has recorded itself, from real QEMU.

With tests/support on PYTHONPATH:

python tests/golden/record_golden.py          lists them
python tests/golden/record_golden.py NAME...  records them anew, into this QEMU's directory
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from chain_scenarios import SCENARIOS as CHAINS
from job_scenarios import SCENARIOS as JOBS
from recorder import Recorder, Scenario, installed_release, record
from tree import RECORDINGS

DRIVE = (
    "-drive if=none,id=drive0,node-name=disk,driver=raw,file.driver=blkdebug,"
    "file.config=blkdebug.conf,file.image.driver=file,file.image.filename=disk.raw"
)
DEVICE = "-device virtio-blk-pci,drive=drive0,id=vd0,addr=4,disable-modern=on,disable-legacy=off"

IMAGE = ("qemu-img create -f raw disk.raw 2M", "qemu-io -f raw -c 'write -P 0x11 0 2M' disk.raw")

EIO, ENOSPC = 5, 28

FREE = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)

SCENARIOS: dict[str, Scenario] = CHAINS | JOBS


def rule(event: str, number: int, *, once: bool = True, **more: int | str) -> str:
    """One error of a blkdebug configuration."""
    keys = {"event": event, "errno": number, "once": "on" if once else "off", **more}
    return "[inject-error]\n" + "".join(f'{key} = "{value}"\n' for key, value in keys.items())


def scenario(
    policies: str, *rules: str, drive: str = ",discard=unmap", options: str | None = None
) -> Callable[[Callable[[Recorder], None]], Callable[[Recorder], None]]:
    """Add one: on a drive with these policies and errors, unless there are `options`."""

    def add(run: Callable[[Recorder], None]) -> Callable[[Recorder], None]:
        SCENARIOS[run.__name__.replace("_", "-")] = Scenario(
            run=run,
            options=options or f"{DRIVE}{drive} {DEVICE}{policies}",
            setup=IMAGE,
            files={"blkdebug.conf": "\n".join(rules)},
        )
        return run

    return add


def look(r: Recorder) -> None:
    """All that can be seen of the state."""
    for command in ("query-status", "query-block", "query-blockstats"):
        r.qmp(command)


@scenario(",rerror=stop,werror=stop", *[rule("write_aio", ENOSPC, sector=1024)] * 2)
def guest_stop_cont_states(r: Recorder) -> None:
    """stop and cont in every state, block_resize and system_reset in io-error"""
    for command in ("stop", "query-status", "stop", "query-status", "cont", "query-status"):
        r.qmp(command)
    r.qmp("cont")
    r.io(("write", 1024))
    look(r)
    r.qmp("stop")
    r.qmp("query-status")
    r.qmp("block_resize", {"device": "drive0", "size": 4 << 20})
    look(r)
    r.qmp("cont")
    r.settle()
    look(r)
    r.qmp("cont")
    r.settle()
    look(r)


@scenario(",rerror=stop,werror=stop", rule("write_aio", ENOSPC, sector=1024))
def guest_reset_in_io_error(r: Recorder) -> None:
    """system_reset drops held requests: prelaunch, and io-status stays until cont"""
    r.io(("write", 1024))
    look(r)
    r.qmp("system_reset")
    r.reset()
    r.settle()
    look(r)
    r.qmp("stop")
    r.qmp("query-status")
    r.qmp("cont")
    r.io(("read", 1024))
    look(r)
    r.qmp("system_reset")
    r.reset()
    r.settle()
    look(r)


@scenario(",werror=stop", *[rule("write_aio", ENOSPC, sector=1024)] * 3)
def guest_write_persistent_stop(r: Recorder) -> None:
    """the same write fails again after every cont, until it does not"""
    r.io(("write", 1024))
    for _ in range(3):
        look(r)
        r.qmp("cont")
        r.settle()
    look(r)
    r.io(("read", 1024))


@scenario(
    ",rerror=report,werror=report",
    rule("write_aio", EIO, sector=1024),
    rule("none", EIO, iotype="discard"),
    rule("none", EIO, iotype="write-zeroes"),
)
def guest_write_threshold_errors(r: Recorder) -> None:
    """a write beyond the threshold says so whether it fails or not; so do others"""
    for request in (("write", 1024), ("discard", 1024, 4096), ("write_zeroes", 1024, 4096)):
        for _ in range(2):
            threshold = {"node-name": "disk", "write-threshold": 1024 * 512 + 100}
            r.qmp("block-set-write-threshold", threshold)
            r.io(request)
            r.qmp("query-block")
    look(r)
    r.qmp("query-blockstats", {"query-nodes": True})


@scenario(",werror=stop,write-cache=off", *[rule("none", EIO, iotype="flush")] * 2)
def guest_writethrough_flush_eio_stop(r: Recorder) -> None:
    """without a write cache a write is flushed: that fails, and the write is retried"""
    r.io(("write", 1024))
    look(r)
    r.qmp("cont")
    r.settle()
    look(r)
    r.io(("write_zeroes", 0, 4096))
    look(r)
    r.qmp("cont")
    r.settle()
    r.io(("read", 1024))
    look(r)


@scenario(
    ",rerror=report,werror=report",
    rule("none", EIO, iotype="discard", once=False),
    drive=",discard=ignore",
)
def guest_discard_ignored(r: Recorder) -> None:
    """without discard=unmap a discard does not reach the storage, and cannot fail there"""
    r.io(("discard", 1024, 4096))
    r.io(("read", 1024))
    look(r)


def throttled_at_stop(r: Recorder) -> None:
    """One write passes, two wait for their turn when the machine stops, one of these fails."""
    r.qmp("block_set_io_throttle", {"device": "drive0", **FREE, "iops": 1})
    for sector in (1024, 1100, 1200):
        r.io(("write", sector))
    r.qmp("stop")
    r.settle()
    look(r)
    r.qmp("block_set_io_throttle", {"device": "drive0", **FREE})
    r.qmp("cont")
    r.settle()
    look(r)


@scenario(",rerror=stop,werror=stop,ioeventfd=off", rule("write_aio", ENOSPC, sector=1100))
def guest_throttled_at_stop(r: Recorder) -> None:
    """STOP, then throttled requests are let through; one that fails then is held until cont"""
    throttled_at_stop(r)


@scenario(",rerror=stop,werror=stop", rule("write_aio", ENOSPC, sector=1100))
def guest_throttled_at_stop_ioeventfd(r: Recorder) -> None:
    """the same with the device as it is by default: its requests end before STOP"""
    throttled_at_stop(r)


@scenario(
    ",rerror=stop,werror=report",
    rule("read_aio", EIO, sector=1024),
    rule("write_aio", ENOSPC, sector=1024),
    rule("flush_to_disk", EIO, iotype="flush"),
    rule("none", EIO, iotype="discard"),
    rule("none", ENOSPC, iotype="write-zeroes"),
)
def guest_every_kind_fails(r: Recorder) -> None:
    """a failed request of each kind, and the counters after it"""
    writes = (("write", 1024), ("write_zeroes", 1024, 4096), ("discard", 1024, 4096), ("flush",))
    for request in (*writes, ("read", 1024)):
        r.io(request)
        look(r)
    r.qmp("cont")
    r.settle()
    look(r)


@scenario(",logical_block_size=4096,physical_block_size=4096")
def guest_invalid_requests(r: Recorder) -> None:
    """what is not a multiple of the block size is refused, without an event"""
    r.io(("write", 1, 512))
    r.io(("read", 8, 512))
    r.io(("write", 8, 4096))
    r.io(("read", 8, 4096))
    look(r)


@scenario(",werror=stop,rerror=stop", rule("write_aio", ENOSPC, sector=1024, once=False))
def guest_quit_in_io_error(r: Recorder) -> None:
    """quit with a request held"""
    r.io(("write", 1024), ("read", 0))
    look(r)


@scenario(
    "",
    options=(
        "-drive if=virtio,file=disk.raw,format=raw,cache=writethrough,readonly=on"
        " -drive if=none,id=limited,driver=raw,file.driver=file,file.filename=disk.raw,"
        "file.locking=off,read-only=on,throttling.iops-total=10,throttling.iops-total-max=20,"
        "throttling.iops-total-max-length=3,throttling.iops-size=4096,throttling.group=g,"
        "detect-zeroes=on"
        " -device virtio-blk-pci,drive=limited,addr=4,disable-modern=on,disable-legacy=off"
        " -blockdev driver=null-co,node-name=nothing,size=1048576,read-zeroes=on"
        " -blockdev driver=raw,node-name=above,file.driver=null-co,file.size=4096"
        " -blockdev driver=blkdebug,node-name=apart,image.driver=null-co,image.size=512"
        " -blockdev driver=file,node-name=lonely,filename=disk.raw,read-only=on"
        " -device virtio-blk-pci,drive=nothing,id=null,write-cache=off"
    ),
)
def guest_drives_of_all_sorts(r: Recorder) -> None:
    """queries of drives without an id, with limits, without a file; of a node without a drive"""
    look(r)
    r.qmp("query-named-block-nodes")
    r.qmp("query-named-block-nodes", {"flat": True})
    r.qmp("query-blockstats", {"query-nodes": True})
    limits = {**FREE, "iops": 30, "bps": 4096, "bps_max": 8192, "group": "h"}
    for name in ("null", "/machine/peripheral/null", "null/virtio-backend", "nothing"):
        r.qmp("block_set_io_throttle", {"id": name, **limits})
        r.qmp("query-block")
    r.qmp("block_set_io_throttle", {"id": "null/virtio-backend", **FREE})
    r.qmp("block_set_io_throttle", {"id": "null/virtio-backend", **FREE, "iops": 5})
    r.qmp("query-block")


@scenario(
    "",
    rule("write_aio", ENOSPC, sector=1024),
    *[rule("write_aio", EIO, sector=1100)] * 2,
    options=(
        "-blockdev driver=raw,node-name=disk,file.driver=blkdebug,file.config=blkdebug.conf,"
        "file.image.driver=file,file.image.filename=disk.raw"
        " -device virtio-blk-pci,drive=disk,id=vd0,addr=4,disable-modern=on,disable-legacy=off,"
        "werror=stop"
    ),
)
def guest_anonymous_iostatus_stays(r: Recorder) -> None:
    """nothing makes the io-status of an anonymous drive ok: no cont, reset, resize or success"""
    r.qmp("query-block")
    r.io(("write", 1024))
    r.qmp("query-block")
    r.qmp("system_reset")
    r.reset()
    r.settle()
    r.qmp("query-block")
    r.qmp("cont")
    r.qmp("query-block")
    r.io(("write", 1100))
    r.qmp("query-block")
    for command in ("cont", "stop", "cont"):
        r.qmp(command)
        r.settle()
        r.qmp("query-block")
    r.qmp("block_resize", {"node-name": "disk", "size": 2 << 20})
    r.io(("write", 1024), ("read", 1100))
    r.qmp("query-block")


def main(names: list[str]) -> None:
    """Record the scenarios of these names."""
    for name in names:
        lines = record(name, SCENARIOS[name])
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (RECORDINGS[installed_release()] / f"{name}.jsonl").write_text(text)
    if not names:
        print("\n".join(SCENARIOS))


if __name__ == "__main__":
    main(sys.argv[1:])
