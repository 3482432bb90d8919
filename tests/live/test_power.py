# SPDX-License-Identifier: MIT
"""A drive that loses its power, with real clients."""

from __future__ import annotations

from pathlib import Path

import nbd

from live import Live, make_image

MIB = 1 << 20


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
