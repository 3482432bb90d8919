# SPDX-License-Identifier: MIT
"""A qcow2 image that is found corrupt under a guest, in a machine."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import nbd
import pytest

from faultline import CommandError
from live import Live, Qmp
from qcow2_images import create, damage, qemu_io

K = 1024
MIB = 1 << 20


def outcome(guest: nbd.NBD, request: str, *arguments: object) -> str:
    try:
        getattr(guest, request)(*arguments)
    except nbd.Error as exc:
        return str(exc.errno)
    return "OK"


def refusal(qmp: Qmp, command: str, **arguments: object) -> str:
    with pytest.raises(CommandError) as caught:
        qmp(command, **arguments)
    return caught.value.text


REQUESTS: dict[str, tuple[object, ...]] = {
    "pread": (64 * K, MIB),
    "pwrite": (b"x" * 64 * K, MIB),
    "zero": (64 * K, MIB),
    "trim": (64 * K, MIB),
    "flush": (),
}


@pytest.mark.parametrize("index", [0, 3])
def test_everything_fails_from_then_on(tmp_path: Path, index: int) -> None:
    """What is plainly there, too, which the shortcut would have read."""
    path = create(tmp_path / "a.qcow2", "64M")
    qemu_io(path, "write -P 1 0 4M")
    place, table = damage(path, index)
    drive = "drive=id=vda,file=a.qcow2,format=qcow2,node-name=disk,werror=report"
    with (
        Live(tmp_path, drive) as live,
        live.qmp() as qmp,
        live.guest() as guest,
    ):
        assert guest.pread(64 * K, MIB) == b"\1" * 64 * K
        assert outcome(guest, "pwrite", b"x" * 64 * K, 8 * MIB) == "OK"
        assert outcome(guest, "pread", 64 * K, index * 64 * K) == "EIO"
        for request, arguments in REQUESTS.items():
            assert outcome(guest, request, *arguments) == "EINVAL", request
        assert qmp.wait_event("BLOCK_IMAGE_CORRUPTED").data == {
            "device": "vda",
            "node-name": "disk",
            "fatal": True,
            "msg": f"Cluster allocation offset {place:#x} unaligned"
            f" (L2 offset: {table:#x}, L2 index: {hex(index) if index else 0})",
        }
        reasons = [qmp.wait_event("BLOCK_IO_ERROR")["reason"] for _ in range(6)]
        assert reasons == ["Input/output error"] + ["No medium found"] * 5
        (shown,) = qmp("query-block")
        assert "inserted" not in shown and shown["device"] == "vda"
        assert refusal(qmp, "query-named-block-nodes") == "Block device disk is ejected"
        assert refusal(qmp, "block_resize", device="vda", size=MIB) == "No medium inserted"
        jobs = {"drive-mirror": {"sync": "full"}, "drive-backup": {"sync": "full"}}
        for command, more in jobs.items():
            target = str(tmp_path / "t")
            said = refusal(qmp, command, device="vda", job_id="j", target=target, **more)
            assert said == "Device has no medium"
            assert not Path(target).exists()
        bitmap = {"node": "disk", "name": "b"}
        said = refusal(qmp, "block-dirty-bitmap-add", **bitmap)
        assert said == "could not get length of device: No medium found"
        snapshot = {"device": "vda", "snapshot_file": str(tmp_path / "s")}
        said = refusal(qmp, "blockdev-snapshot-sync", **snapshot)
        assert said == "Device 'vda' has no medium" and not (tmp_path / "s").exists()
        snapshot = {"node_name": "disk", "snapshot_file": str(tmp_path / "s")}
        said = refusal(qmp, "blockdev-snapshot-sync", **snapshot)
        assert said == "Device 'vda' has no medium"
        qmp("stop")
        qmp("cont")
    assert path.read_bytes()[72:80] == struct.pack(">Q", 2), "the corrupt bit"
    done = subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "quit", path], capture_output=True, text=True, check=False
    )
    assert "Image is corrupt; cannot be opened read/write" in done.stderr + done.stdout


def test_in_the_schema(tmp_path: Path) -> None:
    create(tmp_path / "a.qcow2", "1M")
    with Live(tmp_path, "drive=id=vda,file=a.qcow2,format=qcow2") as live, live.qmp() as qmp:
        schema = {one["name"]: one for one in qmp("query-qmp-schema")}
        event = schema["BLOCK_IMAGE_CORRUPTED"]
        assert event["meta-type"] == "event"
        members = {member["name"] for member in schema[event["arg-type"]]["members"]}
        assert members == {"device", "node-name", "msg", "offset", "size", "fatal"}
