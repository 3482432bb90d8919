# SPDX-License-Identifier: MIT
"""Real machines on chains of images, beside QEMU's own tools."""

from __future__ import annotations

import random
import subprocess
import threading
from pathlib import Path

import nbd
import pytest

from live import TIMEOUT_S, Flight, Live
from qcow2_images import check_clean, content, create, qemu_img, qemu_io

KIB = 1024
MIB = 1 << 20
CLUSTER = 64 * KIB

Extents = list[tuple[int, int]]


def overlay(path: Path, below: str, image_format: str, *commands: str) -> Path:
    """An image over `below`, with what qemu-io makes of it."""
    create(path, "4M", "-u", "-b", below, "-F", image_format)
    if commands:
        qemu_io(path, *commands)
    return path


def chain(directory: Path) -> Path:
    """Five images: raw, and qcow2 with data, zeroes and discards at different places."""
    base = directory / "base.raw"
    base.write_bytes(random.Random(1).randbytes(2 * MIB + 512) + bytes(MIB))
    overlay(directory / "i1", "base.raw", "raw", "write -P 1 128k 64k", "write -z 256k 128k")
    overlay(directory / "i2", "i1", "qcow2", "write -P 2 300k 1k", "discard 64k 64k")
    overlay(directory / "i3", "i2", "qcow2", "write -z -u 1M 256k", "write -P 3 1088k 64k")
    qemu_img("resize", "-f", "qcow2", directory / "i3", "6M")
    overlay(directory / "i4", "i3", "qcow2", "write -P 4 3M 100k", "write -z 3500k 10k")
    return directory / "i4"


def extents(guest: nbd.NBD, size: int) -> Extents:
    """base:allocation of all of it; neighbours that are the same put together."""
    found: Extents = []

    def collect(_context: str, _offset: int, entries: list[int], _error: int) -> int:
        for length, flags in zip(entries[::2], entries[1::2], strict=True):
            if found and found[-1][1] == flags:
                found[-1] = found[-1][0] + length, flags
            else:
                found.append((length, flags))
        return 0

    while (offset := sum(length for length, _ in found)) < size:
        guest.block_status(size - offset, offset, collect)
    return found


def extents_of_qemu(image: Path, directory: Path) -> Extents:
    """What qemu-nbd says of the same image."""
    socket = directory / "qemu-nbd.sock"
    command = ["qemu-nbd", "-r", "-f", "qcow2", "-k", str(socket), "--fork", str(image)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    guest = nbd.NBD()
    guest.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    guest.connect_unix(str(socket))
    found = extents(guest, guest.get_size())
    guest.shutdown()
    return found


def test_block_status_along_a_chain(tmp_path: Path) -> None:
    top = chain(tmp_path)
    theirs = extents_of_qemu(top, tmp_path)
    wanted = content(top)
    with Live(tmp_path, "drive=id=vda,file=i4,format=qcow2") as live, live.guest() as guest:
        assert extents(guest, guest.get_size()) == theirs
        assert guest.pread(len(wanted), 0) == wanted
    assert {flags for _, flags in theirs} == {0, nbd.STATE_HOLE | nbd.STATE_ZERO}


class Writer(threading.Thread):
    """Writes and reads at random, eight requests at a time, until it is told to stop.

    `blocks` is what must be there.  Of several guests each has every so
    manyth block for itself.
    """

    def __init__(self, live: Live, size: int, guests: int = 1, number: int = 0) -> None:
        super().__init__()
        self.live = live
        self.own = range(number, size // (4 * KIB), guests)
        self.blocks = dict.fromkeys(self.own, bytes(4 * KIB))
        self.random = random.Random(number)
        self.enough = threading.Event()
        self.count = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        with self.live.guest() as guest:
            while not self.enough.is_set():
                self._round(guest)
            guest.flush()

    def _round(self, guest: nbd.NBD) -> None:
        flight = Flight()
        chosen = self.random.sample(self.own, 8)
        reads = {n: flight.read(guest, n * 4 * KIB, 4 * KIB) for n in chosen[:3]}
        for n in chosen[3:]:
            self.blocks[n] = self.random.randbytes(4 * KIB)
            flight.write(guest, n * 4 * KIB, self.blocks[n])
        outcomes = flight.land()
        if outcomes != ["OK"] * 8:
            self.wrong.append(str(outcomes))
        for n, request in reads.items():
            if request.data != self.blocks[n]:
                self.wrong.append(f"block {n}")
        self.count += 1


def test_snapshots_while_a_guest_writes(tmp_path: Path) -> None:
    size = 4 * MIB
    (tmp_path / "s0").write_bytes(bytes(size))
    with Live(tmp_path, "drive=id=vda,file=s0,format=raw") as live, live.qmp() as qmp:
        writer = Writer(live, size)
        writer.start()
        for number in range(1, 7):
            before = writer.count
            qmp.wait_for(lambda: writer.count > before + 2)
            file = f"s{number}"
            qmp("blockdev-snapshot-sync", device="vda", snapshot_file=file, snapshot_node_name=file)
        writer.enough.set()
        writer.join(TIMEOUT_S)
        assert not writer.is_alive() and not writer.wrong
        (drive,) = qmp("query-block")
        assert drive["inserted"]["backing_file_depth"] == 6
        nodes = {node["node-name"]: node for node in qmp("query-named-block-nodes", flat=True)}
        assert [nodes[f"s{number}"]["ro"] for number in range(1, 7)] == [True] * 5 + [False]
    for number in range(1, 7):
        check_clean(tmp_path / f"s{number}")
    assert content(tmp_path / "s6") == b"".join(writer.blocks.values())


def test_held_requests_survive_a_snapshot(tmp_path: Path) -> None:
    """They are tried again on the overlay, whose file is on another volume."""
    (tmp_path / "base.raw").write_bytes(b"\1" * MIB)
    key = "drive=id=vda,file=base.raw,format=raw,node-name=base,werror=stop"
    with Live(tmp_path, key) as live, live.qmp() as qmp, live.guest() as guest:
        qmp("x-fault-add", node_name="base", iotype="write", errno="ENOSPC")
        flight = Flight()
        flight.write(guest, 4096, b"\2" * 4096)
        qmp.wait_event("STOP")
        flight.write(guest, 8192, b"\3" * 4096)
        flight.arrived(qmp)
        qmp("blockdev-snapshot-sync", device="vda", snapshot_file="top", snapshot_node_name="top")
        assert not flight.poll(0)
        qmp("cont")
        assert flight.land() == ["OK"] * 2
        (drive,) = qmp("query-block")
        assert (drive["io-status"], drive["inserted"]["node-name"]) == ("ok", "top")
        guest.flush()
    assert (tmp_path / "base.raw").read_bytes() == b"\1" * MIB
    check_clean(tmp_path / "top")
    wanted = b"\1" * 4096 + b"\2" * 4096 + b"\3" * 4096
    assert content(tmp_path / "top") == wanted.ljust(MIB, b"\1")


def test_copy_on_read_runs_full_and_goes_on(tmp_path: Path) -> None:
    """A full volume under the image stops the machine at a read."""
    (tmp_path / "base.raw").write_bytes(random.Random(2).randbytes(MIB))
    create(tmp_path / "top", "1M", "-b", "base.raw", "-F", "raw")
    key = (
        "drive=id=vda,file=top,format=qcow2,copy-on-read=on,rerror=stop,werror=stop,"
        "file.node-name=file,file.x-physical-size=512k"
    )
    data = (tmp_path / "base.raw").read_bytes()
    with Live(tmp_path, key) as live, live.qmp() as qmp, live.guest() as guest:
        flight = Flight()
        reads = [flight.read(guest, offset, 512) for offset in range(0, MIB, CLUSTER)]
        failed = qmp.wait_event("BLOCK_IO_ERROR").data
        assert (failed["operation"], failed["action"], failed["nospace"]) == ("read", "stop", True)
        qmp.wait_event("STOP")
        qmp("x-volume-extend", node_name="file", size=4 * MIB)
        qmp("cont")
        assert flight.land() == ["OK"] * len(reads)
        found = [request.data for request in reads]
        assert found == [data[offset : offset + 512] for offset in range(0, MIB, CLUSTER)]
    check_clean(tmp_path / "top")
    base = (tmp_path / "base.raw").rename(tmp_path / "elsewhere")
    (tmp_path / "base.raw").write_bytes(bytes(MIB))
    assert content(tmp_path / "top") == base.read_bytes()


def test_copy_on_read_beside_guests_that_write(tmp_path: Path) -> None:
    size = 2 * MIB
    (tmp_path / "base.raw").write_bytes(bytes(size))
    create(tmp_path / "top", size, "-b", "base.raw", "-F", "raw")
    key = "drive=id=vda,file=top,format=qcow2,copy-on-read=on"
    with Live(tmp_path, key) as live, live.qmp() as qmp:
        writers = [Writer(live, size, 4, number) for number in range(4)]
        for writer in writers:
            writer.start()
        qmp.wait_for(lambda: all(writer.count > 10 for writer in writers))
        for writer in writers:
            writer.enough.set()
            writer.join(TIMEOUT_S)
            assert not writer.is_alive() and not writer.wrong
    check_clean(tmp_path / "top")
    blocks = {n: data for writer in writers for n, data in writer.blocks.items()}
    assert content(tmp_path / "top") == b"".join(data for _, data in sorted(blocks.items()))


def test_two_drives_at_one_moment(tmp_path: Path) -> None:
    """After a transaction both snapshots are of the same moment, whatever the guest does."""
    for name in "ab":
        (tmp_path / name).write_bytes(bytes(MIB))
    keys = [f"drive=id=vd{name},file={name},format=raw" for name in "ab"]
    with Live(tmp_path, *keys) as live, live.qmp() as qmp:
        enough = threading.Event()

        def count() -> None:
            """First on one drive, then on the other: the second is never ahead."""
            with live.guest("vda") as one, live.guest("vdb") as other:
                number = 0
                while not enough.is_set():
                    number += 1
                    for guest in (one, other):
                        guest.pwrite(number.to_bytes(512, "big"), 0)

        guest = threading.Thread(target=count)
        guest.start()
        qmp.wait_for(lambda: qmp("query-blockstats")[1]["stats"]["wr_operations"] > 20)
        actions = [
            {
                "type": "blockdev-snapshot-sync",
                "data": {"device": f"vd{name}", "snapshot-file": f"{name}1"},
            }
            for name in "ab"
        ]
        qmp("transaction", actions=actions)
        enough.set()
        guest.join(TIMEOUT_S)
    first, second = (int.from_bytes((tmp_path / name).read_bytes()[:512], "big") for name in "ab")
    assert second <= first <= second + 1 and second > 0
    for name in "ab":
        check_clean(tmp_path / f"{name}1")


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_resize_under_a_guest(tmp_path: Path, image_format: str) -> None:
    """New connections have the new size, and what is new is zero."""
    qemu_img("create", "-q", "-f", image_format, tmp_path / "d", "1M")
    key = f"drive=id=vda,file=d,format={image_format}"
    with Live(tmp_path, key) as live, live.qmp() as qmp:
        with live.guest() as guest:
            guest.pwrite(b"\1" * 4096, MIB - 4096)
            qmp("block_resize", device="vda", size=3 * MIB)
        with live.guest() as guest:
            assert guest.get_size() == 3 * MIB
            assert guest.pread(8192, MIB - 4096) == b"\1" * 4096 + bytes(4096)
            guest.pwrite(b"\2" * 4096, 2 * MIB)
            qmp("block_resize", device="vda", size=2 * MIB)
        qmp("block_resize", device="vda", size=4 * MIB)
        with live.guest() as guest:
            assert guest.pread(4096, 2 * MIB) == bytes(4096)
    qemu_img("compare", "-f", image_format, "-F", image_format, tmp_path / "d", tmp_path / "d")
    if image_format == "qcow2":
        check_clean(tmp_path / "d")


def test_chains_of_both_sides(tmp_path: Path) -> None:
    """Faultline's snapshot on QEMU's chain, QEMU's on it, and Faultline again on all of it."""
    chain(tmp_path)
    key = "drive=id=vda,file=i4,format=qcow2"
    with Live(tmp_path, key) as live, live.qmp() as qmp, live.guest() as guest:
        qmp("blockdev-snapshot-sync", device="vda", snapshot_file="i5")
        guest.pwrite(b"\5" * 1000, 5000)
    check_clean(tmp_path / "i5")
    overlay(tmp_path / "i6", "i5", "qcow2", "write -P 6 70k 1k")
    wanted = content(tmp_path / "i6")
    with Live(tmp_path, "drive=id=vda,file=i6,format=qcow2,copy-on-read=on") as live:
        with live.guest() as guest:
            assert guest.pread(len(wanted), 0) == wanted
    check_clean(tmp_path / "i6")
    qemu_img("rebase", "-u", "-b", "", tmp_path / "i6")
    assert content(tmp_path / "i6") == wanted
