# SPDX-License-Identifier: MIT
"""A drive that loses its power, with real clients."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbd
import pytest

from faultline import CommandError
from live import Live, Qmp, make_image

MIB = 1 << 20

Machines = tuple[Qmp, nbd.NBD]


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """A machine that stays, with three writes in the cache of `vda`, and its guest."""
    directory = tmp_path_factory.mktemp("steady")
    image = make_image(directory / "disk.img", MIB)
    keys = (volatile(image), "drive=id=vdb,driver=null-co,size=1M")
    with Live(directory, *keys) as machine, machine.qmp() as qmp, machine.guest() as guest:
        for at in range(3):
            guest.pwrite(b"x" * 512, at * 4096)
        yield qmp, guest


def volatile(image: Path, *more: str) -> str:
    """The key of a drive `vda` on a raw image, with a volatile cache."""
    options = ("id=vda", f"file={image}", "format=raw", "node-name=disk", "cache.x-volatile=on")
    return f"drive={','.join((*options, *more))}"


def test_what_is_on_the_medium_and_when(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk.img", MIB, 0x11)
    with Live(tmp_path, volatile(image, "discard=unmap")) as machine:
        with machine.guest() as guest:
            guest.pwrite(b"a" * 8192, 0)
            guest.zero(4096, 8192)
            guest.trim(4096, 16384)
            assert set(image.read_bytes()) == {0x11}
            guest.pwrite(b"b" * 512, 4096, nbd.CMD_FLAG_FUA)
            medium = image.read_bytes()
            assert medium == b"\x11" * 4096 + b"b" * 512 + b"\x11" * (MIB - 4608)
            now = bytearray(b"a" * 4096 + b"b" * 512 + b"a" * 3584 + bytes(4096))
            now += b"\x11" * 4096 + bytes(4096) + b"\x11" * (MIB - 20480)
            assert guest.pread(MIB, 0) == now
            guest.flush()
            assert image.read_bytes() == now
            guest.pwrite(b"c" * 4096, 65536)
        assert image.read_bytes() == now
    # An orderly end writes everything back.
    now[65536:69632] = b"c" * 4096
    assert image.read_bytes() == now


def test_killed_as_without_power(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk.img", MIB, 0x11)
    with Live(tmp_path, volatile(image)) as machine, machine.guest() as guest:
        guest.pwrite(b"a" * 4096, 0)
        guest.flush()
        guest.pwrite(b"b" * 4096, 0)
        machine.stop(9)
    assert image.read_bytes() == b"a" * 4096 + b"\x11" * (MIB - 4096)


def test_a_flush_that_lies(tmp_path: Path) -> None:
    """A rule above the cache answers a flush that brings nothing down; the next one does."""
    image = make_image(tmp_path / "disk.img", MIB)
    with Live(tmp_path, volatile(image)) as machine, machine.qmp() as qmp, machine.guest() as guest:
        qmp("x-fault-add", node_name="vda", iotype="flush", action="drop", count=1)
        guest.pwrite(b"a" * 4096, 0)
        guest.flush()
        assert not any(image.read_bytes())
        guest.flush()
        assert image.read_bytes()[:4096] == b"a" * 4096


def test_jobs_see_what_the_cache_has(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk.img", MIB, 0x11)
    with Live(tmp_path, volatile(image)) as machine, machine.qmp() as qmp, machine.guest() as guest:
        guest.pwrite(b"a" * 4096, 8192)
        qmp("drive-backup", device="vda", job_id="b", target=str(tmp_path / "b.raw"), sync="full",
            format="raw")
        qmp.wait_event("BLOCK_JOB_COMPLETED")
        now = guest.pread(MIB, 0)
        assert (tmp_path / "b.raw").read_bytes() == now
        qmp("drive-mirror", device="vda", job_id="m", target=str(tmp_path / "m.raw"), sync="full",
            format="raw")
        qmp.wait_event("BLOCK_JOB_READY")
        guest.pwrite(b"d" * 4096, 16384)
        now = guest.pread(MIB, 0)
        qmp("block-job-complete", device="m")
        qmp.wait_event("BLOCK_JOB_COMPLETED")
        guest.flush()
        assert (tmp_path / "m.raw").read_bytes() == now == guest.pread(MIB, 0)


def gone(guest: nbd.NBD) -> bool:
    """Whether a guest's connection has ended; waits for the end."""
    try:
        while guest.aio_is_ready():
            guest.poll(-1)
    except nbd.Error:
        pass
    return bool(guest.aio_is_dead() or guest.aio_is_closed())


def test_a_power_cut_loses_what_was_not_flushed(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk.img", MIB, 0x11)
    with Live(tmp_path, volatile(image)) as machine, machine.qmp() as qmp:
        with machine.guest() as guest:
            guest.pwrite(b"a" * 8192, 0)
            guest.flush()
            guest.pwrite(b"b" * 8192, 4096)
            guest.pwrite(b"c" * 512, 16384, nbd.CMD_FLAG_FUA)
            guest.zero(4096, 0)
            assert qmp("x-power-cut", device="vda") == {
                "kept": 0, "dropped": 2, "torn": 0, "unusable": [],
                "caches": [
                    {"node-name": "#block001", "state": "2-4:none",
                     "kept": 0, "dropped": 2, "torn": 0, "refused": []}
                ],
            }  # fmt: skip
            assert gone(guest)
        now = b"a" * 8192 + b"\x11" * 8192 + b"c" * 512 + b"\x11" * (MIB - 16896)
        assert image.read_bytes() == now
        with machine.guest() as guest:
            assert guest.pread(MIB, 0) == now
            # The drive goes on, and so do the numbers of its writes.
            guest.pwrite(b"d" * 1024, 0)
            guest.pwrite(b"e" * 1024, 8192)
            states = qmp("x-crash-enumerate", device="vda", torn=False)
            assert [one["state"] for one in states] == ["5-6:none", "5-6:5", "5-6:6", "5-6:all"]
            assert qmp("x-power-cut", device="vda", state="5-6:6.1")["torn"] == 1
        expected = bytearray(now)
        expected[8704:9216] = b"e" * 512
        assert image.read_bytes() == expected


def test_a_cut_is_repeated_by_its_seed(tmp_path: Path) -> None:
    cuts: list[dict[str, Any]] = [
        {"keep": "all"},
        *({"keep": "prefix", "torn": True, "seed": seed} for seed in range(2)),
        *({"keep": "random", "torn": True, "seed": seed} for seed in range(2)),
    ]
    found: list[list[tuple[str, bytes]]] = [[], []]
    for run in range(2):
        image = make_image(tmp_path / "disk.img", MIB)
        with Live(tmp_path, volatile(image)) as machine, machine.qmp() as qmp:
            for number, cut in enumerate(cuts):
                with machine.guest() as guest:
                    for at in range(10):
                        guest.pwrite(bytes([number * 10 + at + 1]) * 4096, at * 2048)
                    now = guest.pread(MIB, 0)
                    lost = qmp("x-power-cut", device="vda", **cut)
                found[run].append((lost["caches"][0]["state"], image.read_bytes()))
                assert number or image.read_bytes() == now
    assert found[0] == found[1]
    assert len({state.partition(":")[2] for state, _ in found[0]}) > 4


def test_a_cut_of_all_is_a_reset(tmp_path: Path) -> None:
    """Held and hanging requests are dropped, jobs cancelled, io-status is ok."""
    image = make_image(tmp_path / "disk.img", MIB)
    keys = (
        volatile(image, "werror=stop"),
        "drive=id=vdb,driver=null-co,size=1M,node-name=plain",
        "drive=id=vdc,driver=null-co,size=1M,latency-ns=1000000",
    )
    with Live(tmp_path, *keys) as machine, machine.qmp() as qmp:
        qmp("x-fault-add", id="h", node_name="vdb", iotype="read", action="hang")
        qmp("x-fault-add", node_name="vda", iotype="write", offset=65536, length=512)
        qmp("blockdev-add", driver="null-co", node_name="target", size=MIB)
        qmp("blockdev-mirror", job_id="m", device="vdc", target="target", sync="full", speed=1)
        with machine.guest("vda") as a, machine.guest("vda") as held, machine.guest("vdb") as b:
            a.pwrite(b"a" * 512, 0)
            buffer = nbd.Buffer(512)
            hanging = b.aio_pread(buffer, 0)
            qmp("x-fault-wait", id="h", hits=1)
            cookie = held.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(512)), 65536)
            qmp.wait_event("STOP")
            lost = qmp("x-power-cut")
            assert (lost["kept"], lost["unusable"]) == (0, [])
            assert gone(a) and gone(held) and gone(b)
            assert cookie and hanging
        assert qmp("query-status")["status"] == "prelaunch"
        assert qmp("query-jobs") == [] and qmp("x-query-requests") == []
        assert {one.get("io-status") for one in qmp("query-block")} == {"ok"}
        qmp("cont")
        qmp("x-fault-clear")
        with machine.guest("vdb") as guest:
            assert guest.pread(512, 0) == bytes(512)


def test_a_format_above_a_cache_is_read_anew(tmp_path: Path) -> None:
    """The metadata of a qcow2 image is lost as well; what was flushed is there."""
    image = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "16M"], check=True)
    below = f"file.driver=x-volatile-cache,file.file.driver=file,file.file.filename={image}"
    keys = (f"blockdev=driver=qcow2,node-name=disk,{below}", "device=virtio-blk,drive=disk,id=d")
    with Live(tmp_path, *keys) as machine, machine.qmp() as qmp:
        with machine.guest() as guest:
            guest.pwrite(b"a" * 65536, 0)
            guest.flush()
            guest.pwrite(b"b" * 65536, MIB)
            guest.pwrite(b"b" * 4096, 0)
            lost = qmp("x-power-cut", device="disk", keep="none")
            assert lost["unusable"] == [] and lost["dropped"] > 0
            with machine.guest() as again:
                assert again.pread(65536, 0) == b"a" * 65536
                assert again.pread(65536, MIB) == bytes(65536)
                again.pwrite(b"c" * 65536, 2 * MIB)
                again.flush()
            subprocess.run(["qemu-img", "check", "-q", "-U", image], check=True)
    subprocess.run(["qemu-img", "check", "-q", image], check=True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"device": "nope"}, "Cannot find device='nope' nor node-name='nope'"),
        ({"keep": "some"}, "Parameter 'keep' does not accept value 'some'"),
        ({"torn": True}, "Parameter 'torn' has no meaning with keep=none"),
        ({"torn": True, "keep": "all"}, "Parameter 'torn' has no meaning with keep=all"),
        ({"state": "none"}, "Parameter 'state' needs 'device'"),
        ({"state": "none", "device": "vda", "seed": 1}, "'state' and 'seed' cannot be"),
        ({"state": "1-3:9", "device": "vda"}, "has 9, which is not in 1-3"),
        ({"state": "1-1:all", "device": "vdb"}, "'vdb' has no volatile cache"),
    ],
)
def test_a_wrong_cut_loses_nothing(
    steady: Machines, arguments: dict[str, Any], told: str
) -> None:
    qmp, guest = steady
    with pytest.raises(CommandError, match=re.escape(told)):
        qmp("x-power-cut", **arguments)
    assert guest.pread(512, 0) == b"x" * 512


def test_clones_beside_the_live_drive(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk.img", MIB, 0x11)
    with Live(tmp_path, volatile(image)) as machine, machine.qmp() as qmp, machine.guest() as guest:
        guest.pwrite(b"a" * 8192, 0)
        guest.pwrite(b"b" * 8192, 8192)
        before = image.read_bytes()
        now = guest.pread(MIB, 0)
        told = {
            keep: qmp("x-crash-clone", device="vda", export=keep, keep=keep)
            for keep in ("none", "all")
        }
        assert told["none"] == {"state": "1-2:none", "kept": 0, "dropped": 2, "torn": 0}
        qmp("x-crash-clone", device="vda", export="torn", state="1-2:1.0+2.15")
        torn = b"a" * 512 + before[512 : 16384 - 512] + b"b" * 512 + before[16384:]
        with machine.guest("none") as none, machine.guest("all") as everything:
            assert none.pread(MIB, 0) == before
            # The live drive goes on; the clones do not.
            guest.pwrite(b"c" * 65536, 4096)
            guest.flush()
            assert none.pread(MIB, 0) == before and everything.pread(MIB, 0) == now
            none.pwrite(b"n" * 4096, 0)
            none.flush()
            assert none.pread(8192, 0) == b"n" * 4096 + before[4096:8192]
            assert everything.pread(4096, 0) == guest.pread(4096, 0) == b"a" * 4096
            qmp("x-crash-drop", export="none")
            assert gone(none)
        with machine.guest("torn") as clone:
            assert clone.pread(MIB, 0) == torn
            listed = nbd.NBD()
            listed.set_opt_mode(True)
            listed.connect_unix(machine.nbd_socket)
            names: list[str] = []
            listed.opt_list(lambda name, _: names.append(name))
            assert names == ["vda", "all", "torn"]
            listed.opt_abort()
            # Clones are no drives of the machine; a stopped machine stops none of them.
            assert len(qmp("query-block")) == 1
            qmp("stop")
            assert clone.pread(512, 0) == torn[:512]
            qmp("cont")
            qmp("x-power-cut")
            assert clone.pread(MIB, 0) == torn


def test_the_image_of_each_state_is_sound(tmp_path: Path) -> None:
    """The qcow2 driver here, explored: `qemu-img check` of clones beside the live drive."""
    image = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "16M"], check=True)
    below = f"file.driver=x-volatile-cache,file.file.driver=file,file.file.filename={image}"
    keys = (f"blockdev=driver=qcow2,node-name=disk,{below}", "device=virtio-blk,drive=disk,id=d")
    with Live(tmp_path, *keys) as machine, machine.qmp() as qmp, machine.guest() as guest:
        for at in range(4):
            guest.pwrite(bytes([at + 1]) * 65536, at * 3 * MIB)
        guest.zero(65536, 3 * MIB)
        states = qmp("x-crash-enumerate", device="disk", limit=8)
        assert len(states) == 8
        for number, one in enumerate(states):
            export = f"c{number}"
            qmp("x-crash-clone", device="disk", export=export, state=one["state"])
            check = ["qemu-img", "check", "-q", "-f", "qcow2", machine.uri(export)]
            assert subprocess.run(check, check=False).returncode in (0, 3), one  # 3: leaks
            qmp("x-crash-drop", export=export)
        guest.flush()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"device": "vda", "export": ""}, "Parameter 'export' expects a name"),
        ({"device": "vda", "export": "x" * 256}, "Parameter 'export' expects a name"),
        ({"device": "vda", "export": "vdb"}, "There is an export 'vdb' already"),
        ({"device": "vdb", "export": "c"}, "'vdb' has no volatile cache"),
        ({"device": "vda", "export": "c", "state": "7-9:all"}, "is of other writes than the cache"),
        ({"device": "vda", "export": "c", "state": "none", "keep": "all"}, "cannot be specified"),
    ],
)
def test_a_wrong_clone_is_none(steady: Machines, arguments: dict[str, Any], told: str) -> None:
    qmp, _ = steady
    with pytest.raises(CommandError, match=re.escape(told)):
        qmp("x-crash-clone", **arguments)
    with pytest.raises(CommandError, match="There is no crash clone 'c'"):
        qmp("x-crash-drop", export="c")


def test_a_cache_with_a_clone_cannot_go(steady: Machines) -> None:
    qmp, _ = steady
    qmp("blockdev-add", driver="x-volatile-cache", node_name="v",
        file={"driver": "null-co", "size": MIB})  # fmt: skip
    qmp("x-crash-clone", device="v", export="c")
    for command, arguments in (
        ("blockdev-del", {"node_name": "v"}),
        ("block_resize", {"node_name": "v", "size": 2 * MIB}),
    ):
        with pytest.raises(CommandError):
            qmp(command, **arguments)
    qmp("x-crash-drop", export="c")
    qmp("blockdev-del", node_name="v")


def replayed(log: bytes, medium: bytes, count: int) -> bytes:
    """Bring the first entries of a log of dm-log-writes to a medium, as replay-log does."""
    magic, version, entries, sector = struct.unpack_from("<QQQI", log)
    assert (magic, version, sector) == (0x6A736677736872, 1, 512)
    disk, at = bytearray(medium), sector
    for number in range(entries):
        first, sectors, flags, private = struct.unpack_from("<QQQQ", log, at)
        length = sectors * sector
        at += sector
        assert not private and flags in (0, 4)
        data = bytes(length) if flags else log[at : at + length]
        at += 0 if flags else length
        if number < count:
            disk[first * sector : first * sector + length] = data
    assert at == len(log)
    return bytes(disk)


def test_the_log_is_one_of_dm_log_writes(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk.img", MIB, 0x11)
    with Live(tmp_path, volatile(image, "discard=unmap")) as machine, machine.qmp() as qmp:
        with machine.guest() as guest:
            guest.pwrite(b"a" * 4096, 0)
            guest.flush()
            guest.pwrite(b"b" * 1024, 1024)
            guest.trim(4096, 8192)
            guest.zero(512, 2048, nbd.CMD_FLAG_NO_HOLE)
            guest.pwrite(b"c" * 512, 512)
            now = guest.pread(MIB, 0)
            medium = image.read_bytes()
            saved = tmp_path / "vda.log"
            saved.write_bytes(b"old" * 10000)
            assert qmp("x-write-log-save", device="vda", filename=str(saved)) == {"writes": 4}
            log = saved.read_bytes()
            assert len(log) == 512 * (1 + 4 + 2 + 1 + 1)
            assert replayed(log, medium, 4) == now and replayed(log, medium, 0) == medium
            for state in range(5):
                with_clone = f"2-5:{['none', '2', '2-3', '2-4', 'all'][state]}"
                qmp("x-crash-clone", device="vda", export="c", state=with_clone)
                with machine.guest("c") as clone:
                    assert replayed(log, medium, state) == clone.pread(MIB, 0)
                qmp("x-crash-drop", export="c")
            guest.pwrite(b"d", 0)
            for filename, told in (
                (str(saved), "Write 6 is not of whole sectors"),
                ("/nowhere/x", "Write 6 is not of whole sectors"),
            ):
                with pytest.raises(CommandError, match=told):
                    qmp("x-write-log-save", device="vda", filename=filename)
            guest.flush()
            for filename, told in (
                ("/nowhere/x", "Could not create '/nowhere/x': No such file or directory"),
                (str(image), 'Failed to get "write" lock'),
            ):
                with pytest.raises(CommandError, match=told):
                    qmp("x-write-log-save", device="vda", filename=filename)
