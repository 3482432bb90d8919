# SPDX-License-Identifier: MIT
"""What a guest can ask of a drive over NBD, and what it gets, one request at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbd
import pytest

from faultline import CommandError, Event
from live import Flight, Live, Qmp, make_image

KIB, MIB = 1 << 10, 1 << 20
BLOCK = 4 * KIB
HOLE = nbd.STATE_HOLE | nbd.STATE_ZERO

DRIVES = (
    "drive=id=plain,file=plain.img,format=raw,rerror=report,werror=report",
    "drive=id=unmap,file=unmap.img,format=raw,discard=unmap,werror=report",
    "drive=id=stop,file=stop.img,format=raw,rerror=stop,werror=stop",
    "drive=id=ro,file=ro.img,format=raw,readonly=on",
    "drive=id=null,driver=null-co,size=1048576,werror=report",
    "drive=id=window,driver=raw,file.driver=file,file.filename=window.img,offset=65536,size=65536",
    "drive=id=direct,file=direct.img,format=raw,cache.direct=on",
    "drive=id=through,file=through.img,format=raw,cache.writeback=off,werror=report",
    "drive=id=limited,file=limited.img,format=raw,throttling.iops-total=1",
    "drive=id=sectors,if=none,file=sectors.img,format=raw",
    "device=driver=virtio-blk-pci,drive=sectors,logical_block_size=4096,physical_block_size=4096",
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("requests")
    for name in ("plain", "unmap", "stop", "ro", "window", "direct", "through", "limited"):
        make_image(directory / f"{name}.img", MIB, pattern=0x5A)
    make_image(directory / "sectors.img", MIB)
    with Live(directory, *DRIVES) as live:
        yield live


@pytest.fixture
def qmp(machine: Live) -> Iterator[Qmp]:
    with machine.qmp() as client:
        yield client
        client("x-fault-clear")
        client("cont")


def stats_of(qmp: Qmp, drive: str) -> dict[str, Any]:
    return next(s["stats"] for s in qmp("query-blockstats") if s["device"] == drive)


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, int]:
    """Which counters have moved, and by how much; no times."""
    return {
        name: after[name] - value
        for name, value in before.items()
        if type(value) is int and not name.endswith("_ns") and after[name] != value
    }


def extents(guest: nbd.NBD, length: int, offset: int = 0) -> list[tuple[int, int]]:
    """(length, flags) of each extent, neighbours that are alike taken together."""
    found: list[tuple[int, int]] = []

    def collect(_context: str, _offset: int, entries: list[int], _error: Any) -> None:
        for size, flags in zip(entries[::2], entries[1::2], strict=True):
            if found and found[-1][1] == flags:
                size += found.pop()[0]
            found.append((size, flags))

    end = offset + length
    while offset < end:
        before = sum(size for size, _ in found)
        guest.block_status(end - offset, offset, collect)
        offset += sum(size for size, _ in found) - before
    return found


def refused(call: Callable[..., object], *args: Any) -> str:
    """The name of the errno a request ends with."""
    with pytest.raises(nbd.Error) as caught:
        call(*args)
    assert caught.value.errno is not None
    return str(caught.value.errno)


def file_of(qmp: Qmp, drive: str) -> str:
    """The name of the node that has a drive's file."""
    stats = next(entry for entry in qmp("query-blockstats") if entry["device"] == drive)
    return str(stats["parent"]["node-name"])


def test_written_data_is_read_back(machine: Live) -> None:
    with machine.guest("plain") as guest:
        data = os.urandom(3 * BLOCK + 7)
        guest.pwrite(data, 5 * BLOCK + 3)
        assert guest.pread(len(data), 5 * BLOCK + 3) == data
        assert guest.pread(3, 5 * BLOCK) == b"\x5a" * 3
        guest.flush()
    image = (machine.directory / "plain.img").read_bytes()
    assert image[5 * BLOCK + 3 : 5 * BLOCK + 3 + len(data)] == data


@pytest.mark.parametrize("kind", ["pwrite", "zero", "trim"])
def test_fua_flushes(kind: str, machine: Live, qmp: Qmp) -> None:
    """A write is flushed where its file is, as in QEMU 10.0; what else there is, at the root."""
    arguments = (b"x" * BLOCK, 0) if kind == "pwrite" else (BLOCK, 0)
    with machine.guest("unmap") as guest:
        guest.flush()
        node = file_of(qmp, "unmap") if kind == "pwrite" else "unmap"
        qmp("x-fault-add", node_name=node, iotype="flush", errno="ENOSPC")
        call = getattr(guest, kind)
        call(*arguments)
        assert refused(call, *arguments, nbd.CMD_FLAG_FUA) == "ENOSPC"
        event = qmp.wait_event("BLOCK_IO_ERROR").data
        assert (event["operation"], event["action"]) == ("write", "report")
        assert drained(qmp) == []


def test_without_a_write_cache_every_write_flushes(machine: Live, qmp: Qmp) -> None:
    with machine.guest("through") as guest:
        guest.pwrite(b"x" * BLOCK, 0)
        file = file_of(qmp, "through")
        qmp("x-fault-add", node_name=file, iotype="flush", errno="EIO", id="f")
        assert refused(guest.pwrite, b"y" * BLOCK, 0) == "EIO"
        assert refused(guest.zero, BLOCK, 0) == "EIO"
        qmp("x-fault-remove", id="f")
        guest.pwrite(b"z" * BLOCK, 0)
        assert guest.pread(BLOCK, 0) == b"z" * BLOCK


def test_flush_faults_are_writes_to_the_policy(machine: Live, qmp: Qmp) -> None:
    with machine.guest("plain") as guest:
        guest.pwrite(b"x" * BLOCK, 0)
        qmp("x-fault-add", node_name="plain", iotype="flush", errno="EIO", count=1)
        before = stats_of(qmp, "plain")
        assert refused(guest.flush) == "EIO"
        guest.flush()
        moved = changes(before, stats_of(qmp, "plain"))
        assert moved == {"failed_flush_operations": 1, "flush_operations": 1}
        assert qmp.wait_event("BLOCK_IO_ERROR").data == {
            "device": "plain",
            "qom-path": "/machine/peripheral-anon/device[1]/virtio-backend",
            "node-name": qmp("query-block")[0]["inserted"]["node-name"],
            "operation": "write",
            "action": "report",
            "reason": "Input/output error",
        }


def test_trim_punches_holes_only_with_discard_unmap(machine: Live) -> None:
    with machine.guest("unmap") as guest:
        guest.pwrite(b"x" * 64 * KIB, 0)
        guest.trim(16 * KIB, 16 * KIB)
        assert extents(guest, 64 * KIB) == [(16 * KIB, 0), (16 * KIB, HOLE), (32 * KIB, 0)]
        assert guest.pread(16 * KIB, 16 * KIB) == bytes(16 * KIB)
    with machine.guest("plain") as guest:
        guest.pwrite(b"x" * 64 * KIB, 0)
        guest.trim(16 * KIB, 16 * KIB)
        assert extents(guest, 64 * KIB) == [(64 * KIB, 0)]
        assert guest.pread(16 * KIB, 16 * KIB) == b"x" * 16 * KIB


def test_trim_fault_needs_discard_unmap(machine: Live, qmp: Qmp) -> None:
    for drive in ("unmap", "plain"):
        qmp("x-fault-add", node_name=drive, iotype="discard", errno="ENOSPC")
    with machine.guest("unmap") as guest:
        assert refused(guest.trim, BLOCK, 0) == "ENOSPC"
    with machine.guest("plain") as guest:
        guest.trim(BLOCK, 0)
    assert [e["device"] for e in drained(qmp)] == ["unmap"]


def drained(qmp: Qmp) -> list[Event]:
    """All events so far."""
    qmp("query-status")
    return qmp.take_events()


@pytest.mark.parametrize("drive", ["plain", "unmap", "direct", "null", "window", "sectors"])
@pytest.mark.parametrize("flags", [0, nbd.CMD_FLAG_NO_HOLE], ids=["hole", "no-hole"])
def test_zero_makes_zeroes(flags: int, drive: str, machine: Live) -> None:
    with machine.guest(drive) as guest:
        guest.pwrite(b"x" * 16 * KIB, 0)
        guest.zero(8 * KIB, 4 * KIB, flags)
        if drive != "null":
            edges = b"x" * 4 * KIB
            assert guest.pread(16 * KIB, 0) == edges + bytes(8 * KIB) + edges


def test_no_hole_keeps_the_allocation(machine: Live) -> None:
    with machine.guest("unmap") as guest:
        guest.pwrite(b"x" * 64 * KIB, 0)
        guest.zero(16 * KIB, 0)
        guest.zero(16 * KIB, 32 * KIB, nbd.CMD_FLAG_NO_HOLE)
        used = os.stat(machine.directory / "unmap.img").st_blocks
        assert extents(guest, 16 * KIB) == [(16 * KIB, HOLE)]
        guest.zero(16 * KIB, 32 * KIB)
        assert os.stat(machine.directory / "unmap.img").st_blocks < used


def test_fast_zero_is_not_an_error_where_it_is_impossible(tmp_path: Path) -> None:
    make_image(tmp_path / "d.img", MIB)
    slow = (
        "drive=id=slow,driver=blkdebug,opt-write-zero=65536,"
        "image.driver=file,image.filename=d.img,werror=stop"
    )
    with Live(tmp_path, slow) as live, live.qmp() as qmp, live.guest() as guest:
        assert refused(guest.zero, BLOCK, 0, nbd.CMD_FLAG_FAST_ZERO) == "ENOTSUP"
        guest.zero(64 * KIB, 0, nbd.CMD_FLAG_FAST_ZERO)
        guest.zero(BLOCK, 0)
        assert drained(qmp) == []
        assert qmp("query-status")["running"]


def test_sparse_file_has_holes(machine: Live) -> None:
    with machine.guest("sectors") as guest:
        os.truncate(machine.directory / "sectors.img", 0)
        os.truncate(machine.directory / "sectors.img", MIB)
        guest.pwrite(b"x" * 64 * KIB, 256 * KIB)
        want = [(256 * KIB, HOLE), (64 * KIB, 0), (MIB - 320 * KIB, HOLE)]
        assert extents(guest, MIB) == want
        assert extents(guest, 128 * KIB, 192 * KIB) == [(64 * KIB, HOLE), (64 * KIB, 0)]


def test_block_status_has_no_policy(machine: Live, qmp: Qmp) -> None:
    """A device never asks it, so that an error is the answer, and nobody stops for it."""
    with machine.guest("stop") as guest:
        qmp("x-fault-add", node_name="stop", iotype="block-status", errno="ENOSPC", count=1)
        assert refused(guest.block_status, BLOCK, 0, lambda *_: 0) == "ENOSPC"
        qmp("stop")
        assert extents(guest, MIB) == [(MIB, 0)]
        assert [e.name for e in drained(qmp)] == ["STOP"]


def test_cache_is_a_read(machine: Live, qmp: Qmp) -> None:
    with machine.guest("plain") as guest:
        before = stats_of(qmp, "plain")
        guest.cache(BLOCK, 0)
        assert changes(before, stats_of(qmp, "plain")) == {"rd_operations": 1, "rd_bytes": BLOCK}
        qmp("x-fault-add", node_name="plain", iotype="read", errno="EIO")
        assert refused(guest.cache, BLOCK, 0) == "EIO"
        assert qmp.wait_event("BLOCK_IO_ERROR")["operation"] == "read"


def test_two_connections_see_and_flush_each_others_writes(machine: Live, qmp: Qmp) -> None:
    with machine.guest("plain") as one, machine.guest("plain") as two:
        assert one.can_multi_conn()
        one.pwrite(b"1" * BLOCK, 0)
        assert two.pread(BLOCK, 0) == b"1" * BLOCK
        qmp("x-fault-add", node_name="plain", iotype="flush", errno="EIO", count=1)
        assert refused(two.flush) == "EIO", "the flush concerns what the other has written"
        one.flush()
        assert drained(qmp)[0]["operation"] == "write"


def test_block_size_of_the_device(machine: Live, qmp: Qmp) -> None:
    with machine.guest("sectors") as guest:
        assert guest.get_block_size(nbd.SIZE_MINIMUM) == 4096
        guest.set_strict_mode(0)
        before = stats_of(qmp, "sectors")
        for call, arguments in (
            (guest.pread, (512, 0)),
            (guest.pread, (4096, 512)),
            (guest.pwrite, (b"x" * 512, 0)),
            (guest.zero, (512, 4096)),
        ):
            assert refused(call, *arguments) == "EINVAL"
        guest.pwrite(b"x" * 4096, 4096)
        moved = changes(before, stats_of(qmp, "sectors"))
        assert moved["wr_operations"] == 1 and moved["wr_bytes"] == 4096
        assert drained(qmp) == []


def test_sizes_without_a_device_are_free(machine: Live) -> None:
    with machine.guest("plain") as guest:
        assert guest.get_block_size(nbd.SIZE_MINIMUM) == 1
        guest.pwrite(b"abc", 1)
        assert guest.pread(5, 0)[1:4] == b"abc"


def test_readonly(machine: Live) -> None:
    with machine.guest("ro") as guest:
        assert guest.is_read_only()
        guest.set_strict_mode(0)
        for call, arguments in (
            (guest.pwrite, (b"x" * 512, 0)),
            (guest.zero, (512, 0)),
            (guest.trim, (512, 0)),
        ):
            assert refused(call, *arguments) == "EPERM"
        assert guest.pread(512, 0) == b"\x5a" * 512


def test_resize_is_seen_by_new_connections(tmp_path: Path) -> None:
    """Old ones meet the new end as a device's guest does: with an invalid request."""
    image = make_image(tmp_path / "d.img", MIB, pattern=1)
    with (
        Live(tmp_path, "drive=id=vda,file=d.img,format=raw,rerror=stop,werror=stop") as live,
        live.qmp() as qmp,
        live.guest() as old,
    ):
        qmp("block_resize", device="vda", size=MIB // 2)
        before = stats_of(qmp, "vda")
        for call, arguments in (
            (old.pread, (512, MIB - 512)),
            (old.pwrite, (b"x" * 512, MIB - 512)),
            (old.pread, (1024, MIB // 2 - 512)),
        ):
            assert refused(call, *arguments) == "EINVAL"
        assert changes(before, stats_of(qmp, "vda")) == {
            "invalid_rd_operations": 2,
            "invalid_wr_operations": 1,
        }
        assert refused(old.block_status, 512, MIB - 512, lambda *_: 0) in ("EINVAL", "EIO")
        assert old.pread(512, 0) == b"\1" * 512
        with live.guest() as new:
            assert new.get_size() == MIB // 2
        qmp("block_resize", device="vda", size=2 * MIB)
        with live.guest() as new:
            assert new.get_size() == 2 * MIB
            new.pwrite(b"x" * 512, 2 * MIB - 512)
            assert new.pread(512, MIB - 512) == bytes(512), "what was cut off is gone"
        assert old.pread(512, MIB - 512) == bytes(512)
        assert drained(qmp) == []
    assert image.stat().st_size == 2 * MIB


def test_requests_beyond_a_file_that_shrank_behind_our_back(tmp_path: Path) -> None:
    """A raw image that is shorter than it was reads as zeroes there, as in QEMU."""
    image = make_image(tmp_path / "d.img", 64 * KIB, pattern=7)
    with Live(tmp_path, "drive=id=vda,file=d.img,format=raw") as live, live.guest() as guest:
        os.truncate(image, 10 * KIB)
        assert guest.pread(4 * KIB, 8 * KIB) == b"\7" * 2 * KIB + bytes(2 * KIB)
        assert guest.pread(4 * KIB, 32 * KIB) == bytes(4 * KIB)


def test_file_of_an_odd_length(tmp_path: Path) -> None:
    (tmp_path / "d.img").write_bytes(b"0123456789" * 100)
    with Live(tmp_path, "drive=id=vda,file=d.img,format=raw") as live, live.guest() as guest:
        assert guest.get_size() in (1000, 1024)
        assert guest.pread(1000, 0) == b"0123456789" * 100


def test_null_takes_everything(machine: Live) -> None:
    with machine.guest("null") as guest:
        assert guest.get_size() == MIB
        guest.pwrite(b"x" * MIB, 0)
        guest.flush()
        guest.trim(MIB, 0)
        assert guest.pread(BLOCK, 0) == bytes(BLOCK)


def test_raw_window(machine: Live, qmp: Qmp) -> None:
    with machine.guest("window") as guest:
        assert guest.get_size() == 64 * KIB
        guest.pwrite(b"w" * BLOCK, 0)
        guest.pwrite(b"e" * BLOCK, 60 * KIB)
        qmp("x-fault-add", node_name="window", iotype="write", offset=0, length=512)
        assert refused(guest.pwrite, b"x" * BLOCK, 0) == "EIO"
        guest.pwrite(b"f" * BLOCK, BLOCK)
        guest.flush()
        assert sum(length for length, _ in extents(guest, 64 * KIB)) == 64 * KIB
        with pytest.raises(CommandError, match="Cannot resize fixed-size raw disks"):
            qmp("block_resize", device="window", size=MIB)
    image = (machine.directory / "window.img").read_bytes()
    assert image[: 64 * KIB] == b"\x5a" * 64 * KIB
    assert image[64 * KIB :][:BLOCK] == b"w" * BLOCK
    assert image[64 * KIB + BLOCK :][:BLOCK] == b"f" * BLOCK
    assert image[124 * KIB : 129 * KIB] == b"e" * BLOCK + b"\x5a" * KIB


def test_cache_direct(machine: Live) -> None:
    with machine.guest("direct") as guest:
        data = os.urandom(4 * BLOCK)
        guest.pwrite(data, 8 * BLOCK)
        guest.pwrite(b"odd", 8 * BLOCK + 1)
        want = data[:1] + b"odd" + data[4:]
        assert guest.pread(4 * BLOCK, 8 * BLOCK) == want
        assert guest.pread(100, 8 * BLOCK) == want[:100]


def test_throttled_drive_holds_no_other(machine: Live, qmp: Qmp) -> None:
    """Its queue is let through when the machine stops, as QEMU's drain does."""
    with machine.guest("limited") as limited, machine.guest("plain") as plain:
        flight = Flight()
        queued = [flight.write(limited, n * BLOCK, b"q" * BLOCK) for n in range(12)]
        flight.arrived(qmp)
        for n in range(50):
            plain.pwrite(b"p" * BLOCK, n * BLOCK)
        flight.poll(0)
        assert any(request.outcome is None for request in queued)
        waiting = [request for request in qmp("x-query-requests") if request["device"] == "limited"]
        assert waiting and {request["waits-for"] for request in waiting} == {"throttle"}
        qmp("stop")
        assert flight.land(*queued) == ["OK"] * 12
        qmp("cont")
        assert stats_of(qmp, "limited")["wr_operations"] == 12


def test_bps_limit_counts_bytes(tmp_path: Path) -> None:
    """Of 4 MiB at 1 MiB/s not everything can be through before a second has passed."""
    make_image(tmp_path / "d.img", 4 * MIB)
    drive = "drive=id=vda,file=d.img,format=raw,throttling.bps-write=1048576"
    with Live(tmp_path, drive) as live, live.qmp() as qmp, live.guest() as guest:
        flight = Flight()
        writes = [flight.write(guest, n * MIB // 2, b"x" * (MIB // 2)) for n in range(8)]
        flight.arrived(qmp)
        assert stats_of(qmp, "vda")["wr_bytes"] < 4 * MIB
        limits = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
        qmp.execute("block_set_io_throttle", {"device": "vda", **limits})
        assert flight.land(*writes) == ["OK"] * 8
        assert stats_of(qmp, "vda")["wr_bytes"] == 4 * MIB


def test_write_threshold(machine: Live, qmp: Qmp) -> None:
    node = qmp("query-block")[0]["inserted"]["node-name"]
    with machine.guest("plain") as guest:
        qmp("block-set-write-threshold", node_name=node, write_threshold=512 * KIB)
        guest.pwrite(b"x" * BLOCK, 512 * KIB - BLOCK)
        assert drained(qmp) == []
        guest.pwrite(b"x" * BLOCK, 512 * KIB)
        guest.pwrite(b"x" * BLOCK, 513 * KIB)
        events = drained(qmp)
        assert [e.data for e in events] == [
            {"node-name": node, "amount-exceeded": BLOCK, "write-threshold": 512 * KIB}
        ]
        assert qmp("query-block")[0]["inserted"]["write_threshold"] == 0


ERRNOS = {
    "EPERM": "EPERM",
    "EIO": "EIO",
    "ENOMEM": "ENOMEM",
    "EINVAL": "EINVAL",
    "ENOSPC": "ENOSPC",
    "ESHUTDOWN": "ESHUTDOWN",
    "EDOM": "EIO",
    "EROFS": "EIO",
    "EDQUOT": "EIO",
    "ETIMEDOUT": "EIO",
    "EOVERFLOW": "EIO",
    "ENOTSUP": "EIO",
}
"""Fault, and what NBD makes of it.

EOVERFLOW and ENOTSUP are in the protocol, for replies that nbdkit does not
send: it would turn them into EINVAL.
"""


@pytest.mark.parametrize("fault", ERRNOS)
def test_errno_at_the_client_and_in_the_event(fault: str, machine: Live, qmp: Qmp) -> None:
    with machine.guest("plain") as guest:
        qmp("x-fault-add", node_name="plain", errno=fault, count=3)
        assert refused(guest.pread, BLOCK, 0) == ERRNOS[fault]
        assert refused(guest.pwrite, b"x" * BLOCK, 0) == ERRNOS[fault]
        reasons = [event["reason"] for event in drained(qmp)]
        assert reasons == [os.strerror(getattr(errno, fault))] * 2


def test_ignored_read_gives_zeroes(tmp_path: Path) -> None:
    make_image(tmp_path / "d.img", MIB, pattern=9)
    with (
        Live(tmp_path, "drive=id=vda,file=d.img,format=raw,rerror=ignore,werror=ignore") as live,
        live.qmp() as qmp,
        live.guest() as guest,
    ):
        before = stats_of(qmp, "vda")
        qmp("x-fault-add", node_name="vda", errno="EIO", count=2)
        assert guest.pread(BLOCK, 0) == bytes(BLOCK)
        guest.pwrite(b"lost" * KIB, 0)
        assert guest.pread(BLOCK, 0) == b"\x09" * BLOCK
        assert [e["action"] for e in drained(qmp)] == ["ignore", "ignore"]
        assert changes(before, stats_of(qmp, "vda")) == {
            "rd_operations": 2,
            "rd_bytes": 2 * BLOCK,
            "wr_operations": 1,
            "wr_bytes": BLOCK,
            "wr_highest_offset": BLOCK,
        }
        assert qmp("query-status")["running"]


BLKDEBUG = """
[inject-error]
event = "read_aio"
errno = "28"
sector = "8"
once = "on"

[set-state]
event = "flush_to_disk"
new_state = "2"

[inject-error]
state = "2"
event = "write_aio"
errno = "5"
iotype = "write"
once = "on"
"""


def test_blkdebug_configuration_file(tmp_path: Path) -> None:
    make_image(tmp_path / "d.img", MIB, pattern=1)
    (tmp_path / "faults.conf").write_text(BLKDEBUG)
    drive = "drive=id=vda,file=blkdebug:faults.conf:d.img,format=raw,rerror=report,werror=report"
    with Live(tmp_path, drive) as live, live.qmp() as qmp, live.guest() as guest:
        assert guest.pread(512, 0) == b"\1" * 512
        assert refused(guest.pread, BLOCK, BLOCK) == "ENOSPC"
        assert guest.pread(BLOCK, BLOCK) == b"\1" * BLOCK
        guest.pwrite(b"x" * BLOCK, 0)
        guest.flush()
        assert refused(guest.pwrite, b"y" * BLOCK, 0) == "EIO"
        guest.pwrite(b"z" * BLOCK, 0)
        assert guest.pread(BLOCK, 0) == b"z" * BLOCK
        assert [rule["hits"] for rule in qmp("x-query-faults")] == [1, 1]


def test_largest_request(machine: Live) -> None:
    """nbdkit takes 32 MiB at most and refuses more with an error, not by hanging up."""
    with machine.guest("null") as guest:
        guest.set_strict_mode(0)
        assert refused(guest.pread, 2 * MIB, 0) == "EINVAL"
        assert guest.pread(MIB, 0) == bytes(MIB)


def test_unknown_export(machine: Live) -> None:
    handle = nbd.NBD()
    with pytest.raises(nbd.Error):
        handle.connect_uri(machine.uri("nosuch"))
    handle = nbd.NBD()
    handle.set_opt_mode(True)
    handle.connect_uri(machine.uri())
    names: list[str] = []

    def collect(name: str, _description: str) -> int:
        names.append(name)
        return 0

    handle.opt_list(collect)
    handle.opt_abort()
    assert names == [key.partition("id=")[2].partition(",")[0] for key in DRIVES if "id=" in key]
