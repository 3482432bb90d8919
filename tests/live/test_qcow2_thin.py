# SPDX-License-Identifier: MIT
"""A qcow2 overlay on a volume that runs full, is extended, and goes on."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faultline import Event
from live import TIMEOUT_S, Live, Qmp
from load import Writer

KIB = 1024
CYCLES = 50
SIZE = 16 << 20
START = 512 * KIB
CHUNK = 256 * KIB
BASE = 0x5A
"""What every byte of the backing image is."""

DRIVE = "drive=id=vda,file=top.qcow2,format=qcow2,rerror=stop,werror=enospc"


def qemu_img(directory: Path, *arguments: str) -> str:
    """Run qemu-img in `directory`; what it prints."""
    command = ["qemu-img", *arguments]
    done = subprocess.run(command, cwd=directory, check=True, stdout=subprocess.PIPE)
    return done.stdout.decode()


def make_overlay(directory: Path, size: int, cluster_size: int) -> bytearray:
    """top.qcow2 on base.img; the content of both."""
    content = bytearray([BASE]) * size
    (directory / "base.img").write_bytes(content)
    made = f"cluster_size={cluster_size}"
    backing = ("-b", "base.img", "-F", "raw")
    qemu_img(directory, "create", "-q", "-f", "qcow2", *backing, "-o", made, "top.qcow2")
    return content


def pieces(content: bytearray, seed: int) -> Iterator[tuple[int, bytes]]:
    """New data for all of `content`, which is what has to come of it, in a random order.

    The pieces do not end where clusters end, so that clusters are copied,
    and two requests meet in one.
    """
    rng = random.Random(seed)
    parts, offset = [], 0
    while offset < len(content):
        length = min(512 * rng.randrange(1, 150), len(content) - offset)
        parts.append((offset, length))
        offset += length
    rng.shuffle(parts)
    for offset, length in parts:
        data = rng.randbytes(length)
        content[offset : offset + length] = data
        yield offset, data


def until(name: str, qmp: Qmp) -> Iterator[Event]:
    """The events up to one of that name."""
    while (event := qmp.next_event()).name != name:
        yield event


@pytest.mark.slow
@pytest.mark.parametrize("thresholds", [False, True], ids=["held", "threshold-first"])
@pytest.mark.parametrize("cluster_size", [4 * KIB, 64 * KIB])
def test_fifty_times_full_extended_and_resumed(
    tmp_path: Path, cluster_size: int, thresholds: bool
) -> None:
    content = make_overlay(tmp_path, SIZE, cluster_size)
    limited = f"{DRIVE},file.node-name=volume,file.x-physical-size={START}"
    with Live(tmp_path, limited) as live, live.qmp() as qmp:
        physical_size = START
        writer = Writer(live, pieces(content, cluster_size))
        for cycle in range(CYCLES):
            threshold = physical_size - CHUNK // 2 if thresholds else 0
            qmp("block-set-write-threshold", node_name="volume", write_threshold=threshold)
            if cycle == 0:
                writer.start()
            else:
                qmp("cont")
                list(until("RESUME", qmp))
            events = list(until("STOP", qmp))
            names = [event.name for event in events]
            assert names[0] == ("BLOCK_WRITE_THRESHOLD" if thresholds else "BLOCK_IO_ERROR")
            assert names[thresholds] == "BLOCK_IO_ERROR"
            error = events[thresholds]
            assert (error["device"], error["operation"]) == ("vda", "write")
            assert (error["action"], error["nospace"]) == ("stop", True)
            assert qmp("query-status")["status"] == "io-error"
            assert qmp("query-block")[0]["io-status"] == "nospace"
            assert (tmp_path / "top.qcow2").stat().st_size <= physical_size
            (volume,) = qmp("x-query-volumes")
            assert (volume["node-name"], volume["virtual-size"]) == ("volume", SIZE)
            assert volume["physical-size"] == physical_size < volume["wr-highest-offset"]
            physical_size += CHUNK
            qmp("x-volume-extend", node_name="vda", add=CHUNK)
        qmp("x-volume-extend", node_name="volume", size=2 * SIZE)
        qmp("cont")
        writer.join(TIMEOUT_S)
        assert not writer.is_alive() and not writer.failed
        assert qmp("query-status")["running"]
        assert qmp("query-block")[0]["io-status"] == "ok"
        (volume,) = qmp("x-query-volumes")
        assert volume["extensions"] == CYCLES + 1
    assert "No errors were found" in qemu_img(tmp_path, "check", "top.qcow2")
    (tmp_path / "content").write_bytes(content)
    qemu_img(tmp_path, "compare", "-f", "raw", "-F", "qcow2", "content", "top.qcow2")
    assert (tmp_path / "base.img").read_bytes() == bytes([BASE]) * SIZE
