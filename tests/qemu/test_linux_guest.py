# SPDX-License-Identifier: MIT
"""A real Linux guest: its file system's writes are held and completed, or refused."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from linux_guest import LinuxGuest
from live import Live

pytestmark = pytest.mark.slow

CONTENT = (b"faultline " * 420_000)[: 4 << 20]

WRITE = "yes 'faultline ' | tr -d '\\n' | head -c 4194304 | dd of=/mnt/file bs=64k conv=fsync"
"""What makes a file of CONTENT in the guest, and does not end before it is on the disk."""


def on_host(*argv: str | Path) -> bytes:
    """Run a program of e2fsprogs; what it prints."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    command = subprocess.run(argv, env={"PATH": path}, check=True, stdout=subprocess.PIPE)
    return command.stdout


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An empty ext4 of 64 MiB."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    on_host("mkfs.ext4", "-q", path)
    return path


def test_held_write_completes_after_cont(tmp_path: Path, disk: Path) -> None:
    drive = f"drive=id=vda,file={disk},format=raw,rerror=stop,werror=enospc"
    with (
        Live(tmp_path, drive) as machine,
        machine.qmp() as qmp,
        LinuxGuest(tmp_path, machine.nbd_socket, "vda") as guest,
    ):
        assert guest.run("mount -t ext4 /dev/vda /mnt") == "0"
        fault = qmp("x-fault-add", node_name="vda", iotype="write", errno="ENOSPC")
        guest.send(f"{{ {WRITE}; echo written $?; }} &")
        error = qmp.wait_event("BLOCK_IO_ERROR").data
        assert (error["device"], error["action"], error["nospace"]) == ("vda", "stop", True)
        qmp.wait_event("STOP")
        assert qmp("query-status")["status"] == "io-error"
        assert qmp("query-block")[0]["io-status"] == "nospace"
        # The guest itself runs on, with its writer neither done nor refused.
        assert guest.run("echo alive") == "0 alive"
        assert not any(line.startswith("written") for line in guest.lines)

        qmp("x-fault-remove", id=fault["id"])
        qmp("cont")
        assert guest.wait_line("written ") == "0"
        assert qmp("query-block")[0]["io-status"] == "ok"
        guest.run("echo 3 >/proc/sys/vm/drop_caches")
        checksum = guest.run("sha256sum </mnt/file").split()
        assert checksum[:2] == ["0", hashlib.sha256(CONTENT).hexdigest()]
        guest.power_off()
    on_host("e2fsck", "-fn", disk)
    assert on_host("debugfs", "-R", "cat /file", disk) == CONTENT


def test_reported_write_is_an_error_in_the_guest(tmp_path: Path, disk: Path) -> None:
    drive = f"drive=id=vda,file={disk},format=raw,rerror=report,werror=report"
    with (
        Live(tmp_path, drive) as machine,
        machine.qmp() as qmp,
        LinuxGuest(tmp_path, machine.nbd_socket, "vda") as guest,
    ):
        assert guest.run("mount -t ext4 /dev/vda /mnt") == "0"
        qmp("x-fault-add", node_name="vda", iotype="write", errno="ENOSPC")
        # virtio-blk has one error only, so out of ENOSPC comes EIO.
        output = guest.run(f"{{ {WRITE}; }} 2>&1")
        assert output.startswith("1 ")
        assert "Input/output error" in output
        error = qmp.wait_event("BLOCK_IO_ERROR").data
        assert (error["device"], error["action"]) == ("vda", "report")
        assert "nospace" not in error
        assert qmp("query-status")["running"]
        assert guest.run("dmesg | grep -c 'I/O error, dev vda'").startswith("0 ")


def test_a_thin_volume_runs_full_again_and_again(tmp_path: Path, disk: Path) -> None:
    """ext4 is on a qcow2 overlay of `disk`, and never hears that there was no room."""
    overlay = tmp_path / "top.qcow2"
    on_host("qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", "raw", overlay)
    drive = f"drive=id=vda,file={overlay},format=qcow2,rerror=stop,werror=enospc"
    chunk = 512 << 10
    with (
        Live(tmp_path, f"{drive},file.x-physical-size={chunk}") as machine,
        machine.qmp() as qmp,
        LinuxGuest(tmp_path, machine.nbd_socket, "vda") as guest,
    ):
        # As many extensions as CONTENT alone needs; mounting may already take one.
        cycles, mark = len(CONTENT) // chunk, 0
        guest.send(f"mount -t ext4 /dev/vda /mnt; {{ {WRITE}; echo written $?; }} &")
        for _ in range(cycles):
            error = qmp.wait_event("BLOCK_IO_ERROR", since=mark)
            assert (error["device"], error["action"], error["nospace"]) == ("vda", "stop", True)
            qmp.wait_event("STOP")
            mark = qmp.mark()
            assert qmp("query-block")[0]["io-status"] == "nospace"
            qmp("x-volume-extend", node_name="vda", add=chunk)
            qmp("cont")
        qmp("x-volume-responder", node_name="vda", chunk=4 * chunk)
        assert guest.wait_line("written ") == "0"
        guest.run("echo 3 >/proc/sys/vm/drop_caches")
        checksum = guest.run("sha256sum </mnt/file").split()
        assert checksum[:2] == ["0", hashlib.sha256(CONTENT).hexdigest()]
        assert guest.run("dmesg | grep -c 'I/O error, dev vda'") == "1 0"
        guest.power_off()
        assert qmp("query-block")[0]["io-status"] == "ok"
        (volume,) = qmp("x-query-volumes")
        assert volume["extensions"] >= cycles
    assert b"No errors were found" in on_host("qemu-img", "check", overlay)
    content = tmp_path / "content.img"
    on_host("qemu-img", "convert", "-O", "raw", overlay, content)
    on_host("e2fsck", "-fn", content)
    assert on_host("debugfs", "-R", "cat /file", content) == CONTENT
