# SPDX-License-Identifier: MIT
"""Real machines on volumes that run full, and real bitmaps beside QEMU's."""

from __future__ import annotations

import json
import random
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbd
import pytest

from faultline import CommandError
from live import TIMEOUT_S, Live, Qmp, make_image
from load import Writer

KIB = 1024
MIB = 1 << 20
CYCLES = 50

TREE = 64 << 10
"""What a file system may count for a file besides its data: the blocks of its extent tree."""
BLOCK = 64 * KIB


def pattern(offset: int) -> bytes:
    """What belongs there: no two blocks are the same."""
    return offset.to_bytes(8, "little") * (BLOCK // 8)


def pieces(size: int) -> Iterator[tuple[int, bytes]]:
    """From the beginning of a drive to its end."""
    return ((offset, pattern(offset)) for offset in range(0, size, BLOCK))


def is_filled(image: Path, size: int) -> bool:
    with image.open("rb") as file:
        return all(file.read(BLOCK) == pattern(offset) for offset in range(0, size, BLOCK))


@pytest.mark.slow
@pytest.mark.parametrize("short", ["off", "on"])
def test_fifty_times_full_extended_and_resumed(tmp_path: Path, short: str) -> None:
    size = (CYCLES + 1) * MIB
    image = make_image(tmp_path / "d.img", size)
    key = (
        "drive=id=vda,file=d.img,format=raw,rerror=stop,werror=enospc,"
        f"file.x-physical-size=1M,file.x-extent-size=256k,file.x-short-write={short}"
    )
    with Live(tmp_path, key) as live, live.qmp() as qmp:
        writer = Writer(live, pieces(size))
        writer.start()
        for cycle in range(CYCLES):
            assert qmp.wait_event("BLOCK_IO_ERROR")["nospace"]
            qmp.wait_event("STOP")
            (volume,) = qmp("x-query-volumes")
            assert volume["physical-size"] == (cycle + 1) * MIB
            assert volume["allocated"] <= volume["physical-size"] + TREE
            assert volume["physical-size"] < volume["wr-highest-offset"]
            qmp("x-volume-extend", node_name="vda", add=MIB)
            qmp("cont")
        writer.join(TIMEOUT_S)
        assert not writer.is_alive() and not writer.failed
        assert qmp("query-status")["running"]
        assert qmp("query-block")[0]["io-status"] == "ok"
        (volume,) = qmp("x-query-volumes")
        assert volume["extensions"] == CYCLES
    assert is_filled(image, size)


@pytest.mark.slow
def test_the_machine_is_its_own_storage_manager(tmp_path: Path) -> None:
    size = 64 * MIB
    image = make_image(tmp_path / "d.img", size)
    key = "drive=id=vda,file=d.img,format=raw,werror=stop,file.x-physical-size=1M"
    with Live(tmp_path, key) as live, live.qmp() as qmp:
        qmp(
            "x-volume-responder",
            **{"node_name": "vda", "chunk": 2 * MIB, "percent": 50},
            **{"latency_min_ms": 0, "latency_max_ms": 20, "seed": 7},
        )
        writer = Writer(live, pieces(size))
        writer.start()
        while qmp.wait_event("X_VOLUME_EXTENDED")["new-size"] < size:
            assert not writer.failed
        writer.join(TIMEOUT_S)
        assert not writer.is_alive() and not writer.failed
        (volume,) = qmp("x-query-volumes")
        assert volume["responder"]["extensions"] == volume["extensions"] >= 31
        assert volume["responder"]["resumes"] <= volume["refusals"]
    assert is_filled(image, size)


class StorageDaemon:
    """qemu-storage-daemon with the raw node d0, exported over NBD."""

    def __init__(self, directory: Path, size: int) -> None:
        make_image(directory / "q.img", size)
        control, nbd_socket = directory / "q.qmp", directory / "q.nbd"
        self.uri = f"nbd+unix:///d0?socket={nbd_socket}"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(control))
        listener.listen(1)
        monitor = f"socket,id=c,fd={listener.fileno()},server=on,wait=off"
        self.process = subprocess.Popen(
            [
                *("qemu-storage-daemon", "--chardev", monitor, "--monitor", "chardev=c"),
                "--blockdev",
                "driver=raw,node-name=d0,discard=unmap,file.driver=file,"
                f"file.filename={directory / 'q.img'},file.discard=unmap",
                *("--nbd-server", f"addr.type=unix,addr.path={nbd_socket}"),
                *("--export", "nbd,id=e,node-name=d0,writable=on"),
            ],
            pass_fds=[listener.fileno()],
        )
        listener.close()
        self.qmp = Qmp.connect(control)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.qmp.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[StorageDaemon]:
    daemon = StorageDaemon(tmp_path, 4 * MIB)
    yield daemon
    daemon.close()


NAMES = ("a", "b", "c")


VERBS = ("add", "add", "remove", "clear", "disable", "merge")


def random_command(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A command about bitmaps that may or may not be possible at the moment.

    No transaction enables anything: undoing that, QEMU 7.2 crashes if there
    was no such bitmap, and disables one that was busy.
    """
    verb = rng.choice([*VERBS, "enable", "enable", "transaction", "transaction"])
    if verb != "transaction":
        return random_change(rng, verb)
    changes = [random_change(rng, rng.choice(VERBS)) for _ in range(rng.randrange(1, 5))]
    actions = [{"type": kind, "data": data} for kind, data in changes]
    if rng.random() < 0.3:
        actions.append({"type": "abort", "data": {}})
    return "transaction", {"actions": actions}


def random_change(rng: random.Random, verb: str) -> tuple[str, dict[str, Any]]:
    name = rng.choice(NAMES)
    arguments: dict[str, Any] = {"node": "d0", "name": name}
    if verb == "add":
        if rng.random() < 0.8:
            arguments["granularity"] = 512 << rng.randrange(14)
        arguments["disabled"] = rng.random() < 0.2
    elif verb == "merge":
        arguments = {"node": "d0", "target": name, "bitmaps": [rng.choice(NAMES)]}
    return f"block-dirty-bitmap-{verb}", arguments


def random_request(rng: random.Random, guests: list[nbd.NBD]) -> None:
    """The same to both, aligned to what QEMU's export promises."""
    offset = rng.randrange(4 * MIB // 512) * 512
    length = min(rng.choice([512, 4096, 3 * 512, 300 * KIB]), 4 * MIB - offset)
    what = rng.randrange(3)
    for guest in guests:
        if what == 0:
            guest.pwrite(b"x" * length, offset)
        elif what == 1:
            guest.zero(length, offset)
        else:
            guest.trim(length, offset)


def state(execute: Any) -> Any:
    """All bitmaps of d0 with a hash of their bits."""
    (node,) = [n for n in execute("query-named-block-nodes", {}) if n["node-name"] == "d0"]
    bitmaps = node.get("dirty-bitmaps", [])
    command = "x-debug-block-dirty-bitmap-sha256"
    return [(entry, execute(command, {"node": "d0", "name": entry["name"]})) for entry in bitmaps]


@pytest.mark.slow
def test_bitmaps_are_those_of_qemu(tmp_path: Path, daemon: StorageDaemon) -> None:
    """Random commands and requests to both: the same errors, counts and bits after each."""
    rng = random.Random(3)
    make_image(tmp_path / "d.img", 4 * MIB)
    key = "drive=id=vda,node-name=d0,file=d.img,format=raw,discard=unmap"
    with Live(tmp_path, key) as live, live.qmp() as qmp, live.guest() as ours:
        theirs = nbd.NBD()
        theirs.connect_uri(daemon.uri)
        for step in range(400):
            command, arguments = random_command(rng)
            expected = answer(daemon.qmp, command, arguments)
            assert answer(qmp, command, arguments) == expected, (step, command, arguments)
            random_request(rng, [ours, theirs])
            assert state(qmp.execute) == state(daemon.qmp.execute), (step, command, arguments)
        theirs.shutdown()


def answer(qmp: Qmp, command: str, arguments: dict[str, Any]) -> Any:
    try:
        return qmp.execute(command, arguments)
    except CommandError as error:
        return error.text


def test_no_write_escapes_a_bitmap_that_is_added_under_load(tmp_path: Path) -> None:
    """Whatever is written after the reply is in the bitmap, shortcut or not."""
    size = 8 * MIB
    make_image(tmp_path / "d.img", size)
    with Live(tmp_path, "drive=id=vda,file=d.img,format=raw") as live, live.qmp() as qmp:
        for _ in range(10):
            writer = Writer(live, pieces(size))
            writer.start()
            qmp("block-dirty-bitmap-add", node="vda", name="b")
            with live.guest() as guest:
                guest.pwrite(b"y" * BLOCK, size - BLOCK)
            writer.join(TIMEOUT_S)
            assert not writer.failed
            (entry,) = qmp("query-block")[0]["inserted"]["dirty-bitmaps"]
            assert BLOCK <= entry["count"] <= size and entry["count"] % BLOCK == 0
            qmp("block-dirty-bitmap-clear", node="vda", name="b")
            with live.guest() as guest:
                guest.pwrite(b"y", 5)
                guest.pread(size // 2, 0)
            (entry,) = qmp("query-block")[0]["inserted"]["dirty-bitmaps"]
            assert entry["count"] == BLOCK
            qmp("block-dirty-bitmap-remove", node="vda", name="b")


@pytest.mark.parametrize("discard", ["ignore", "unmap"])
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_zeroes_that_may_unmap_keep_a_target_thin(
    tmp_path: Path, image_format: str, discard: str
) -> None:
    """As `qemu-img convert -n` and nbdcopy expect; only discards obey `discard`."""
    image = tmp_path / "d.img"
    subprocess.run(["qemu-img", "create", "-q", "-f", image_format, image, "16M"], check=True)
    key = f"drive=id=vda,file=d.img,format={image_format},discard={discard}"
    with Live(tmp_path, key) as live, live.guest() as guest:
        for offset in (0, MIB):
            guest.pwrite(b"x" * MIB, offset)
        guest.flush()
        guest.trim(MIB, 0)
        guest.flush()
        trimmed = image.stat().st_blocks * 512
        guest.pwrite(b"x" * MIB, 0)
        guest.flush()
        before = image.stat().st_blocks * 512
        guest.zero(MIB, 0)
        guest.zero(MIB, MIB, nbd.CMD_FLAG_NO_HOLE)
        assert guest.pread(2 * MIB, 0) == bytes(2 * MIB)
    kept = image.stat().st_blocks * 512
    assert (trimmed <= before - MIB + TREE) is (discard == "unmap")
    if image_format == "raw":
        assert kept <= before - MIB + TREE
    else:
        command = ["qemu-img", "check", "-f", "qcow2", "--output=json", str(image)]
        done = subprocess.run(command, check=True, capture_output=True)
        assert json.loads(done.stdout)["allocated-clusters"] == 16, "only what may not unmap"
