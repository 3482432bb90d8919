# SPDX-License-Identifier: MIT
"""Images whose format nobody has named: what they are taken for, and what is said about it."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from pathlib import Path

import nbd
import pytest

from blockcore.nodes.drivers.probe import format_of
from faultline import CommandError
from live import Live, make_image
from qcow2_images import create

MIB = 1 << 20
GUESSED = "Image format was not specified for '{}' and probing guessed raw."


def bochs(version: int, subtype: bytes = b"Growing") -> bytes:
    kind = b"Bochs Virtual HD Image".ljust(32, b"\0") + b"Redolog".ljust(16, b"\0")
    return kind + subtype.ljust(16, b"\0") + struct.pack("<I", version)


HEADERS = {
    "zeroes": b"",
    **{f"qcow2-{n:x}": b"QFI\xfb" + struct.pack(">I", n) for n in (0, 2, 3, 4, 256, 1 << 24)},
    "qcow": b"QFI\xfb\0\0\0\1",
    "qed": b"QED\0",
    "vmdk": b"KDMV",
    "vmdk-3": b"COWD",
    "vmdk-text": b"# Disk DescriptorFile\nversion=1\n",
    "vmdk-no-comment": b"version=2\n",
    "vmdk-blank": b"# x\n \r\n  \nversion=3\r\n",
    "vmdk-empty-line": b"\n# x\nversion=1\n",
    "vmdk-4": b"# x\nversion=4\n",
    "vmdk-other-line": b"# x\nCID=1\nversion=1\n",
    "vpc": b"conectix",
    "vhdx": b"vhdxfile",
    "luks": b"LUKS\xba\xbe\0\1",
    "luks-2": b"LUKS\xba\xbe\0\2",
    "parallels": b"WithoutFreeSpace" + struct.pack("<I", 2),
    "parallels-3": b"WithoutFreeSpace" + struct.pack("<I", 3),
    "parallels-ext": b"WithouFreSpacExt" + struct.pack("<I", 2),
    "vdi": bytes(64) + b"\x7f\x10\xda\xbe",
    "cloop": b"#!/bin/sh\n#V2.0 Format\n"
    b"modprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n",
    "bochs-1": bochs(0x10000),
    "bochs-2": bochs(0x20000),
    "bochs-3": bochs(0x30000),
    "bochs-flat": bochs(0x20000, b"Flat"),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_what_qemu_takes_for_a_format(header: bytes, tmp_path: Path) -> None:
    """QEMU lets nobody write such a sector to an image that it has guessed to be raw."""
    (tmp_path / "sector").write_bytes(header.ljust(512, b"\0"))
    make_image(tmp_path / "d", MIB)
    done = subprocess.run(
        ["qemu-io", "-c", f"write -s {tmp_path / 'sector'} 0 512", str(tmp_path / "d")],
        capture_output=True,
        text=True,
    )
    refused = "Operation not permitted" in done.stdout + done.stderr
    assert (format_of(header.ljust(512, b"\0")) != "raw") is refused


def warnings(live: Live) -> list[str]:
    lines = [json.loads(line) for line in live.log.read_text().splitlines()]
    return [line["event"] for line in lines if line["level"] == "warning"]


def test_a_drive_without_a_format(tmp_path: Path) -> None:
    """qcow2 is qcow2; raw is raw with a warning, if it can be written at all."""
    create(tmp_path / "q", 2 * MIB)
    for name in ("guessed", "named", "read", "target"):
        make_image(tmp_path / name, MIB)
    keys = ["drive=id=q,file=q", "drive=id=guessed,file=guessed,node-name=n"]
    keys += ["drive=id=named,file=named,format=raw", "drive=id=read,file=read,read-only=on"]
    with Live(tmp_path, *keys) as live, live.qmp() as qmp:
        drives = {drive["device"]: drive["inserted"]["drv"] for drive in qmp("query-block")}
        assert drives == {"q": "qcow2", "guessed": "raw", "named": "raw", "read": "raw"}
        with live.guest("q") as guest:
            assert guest.get_size() == 2 * MIB
        assert [text.startswith(GUESSED.format("guessed")) for text in warnings(live)] == [True]
        with live.guest("guessed") as guest:
            header = (tmp_path / "q").read_bytes()[:512]
            guest.pwrite(b"x" * 512, 0)
            with pytest.raises(nbd.Error) as caught:
                guest.pwrite(header, 0)
            assert caught.value.errno == "EPERM"
            assert guest.pread(512, 0) == b"x" * 512
            guest.pwrite(header, 512)
        with live.guest("named") as guest:
            guest.pwrite(header, 0)
        with pytest.raises(CommandError, match="'abc'"):
            qmp("drive-mirror", device="q", target="x", sync="full", format="abc")
        target = str(tmp_path / "target")
        qmp("drive-mirror", device="guessed", target=target, sync="full", mode="existing")
        assert warnings(live)[1].startswith(GUESSED.format(target))


def test_a_job_cannot_make_a_probed_target_another_format(tmp_path: Path) -> None:
    """Neither may what goes from file to file without being looked at."""
    (tmp_path / "source").write_bytes(create(tmp_path / "q", MIB).read_bytes())
    size = os.stat(tmp_path / "source").st_size
    make_image(tmp_path / "target", size)
    drive = "drive=id=vda,file=source,format=raw"
    with Live(tmp_path, drive) as live, live.qmp() as qmp:
        target = str(tmp_path / "target")
        qmp("drive-backup", device="vda", target=target, sync="full", mode="existing")
        error = qmp.wait_event("BLOCK_JOB_ERROR").data
        assert (error["operation"], error["action"]) == ("write", "report")
        ended = qmp.wait_event("BLOCK_JOB_COMPLETED").data
        assert ended["error"] == "Operation not permitted"
    assert not any((tmp_path / "target").read_bytes()[:512])
