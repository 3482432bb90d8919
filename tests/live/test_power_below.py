# SPDX-License-Identifier: MIT
"""Power cuts and crash clones over a medium that fails: what they tell is what is read after."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hatchery import Hatched
from live import Live, Qmp, make_image

MIB = 1 << 20
BLOCK = 4096
VOLATILE = "node-name=disk,cache.x-volatile=on,werror=report"

RULES: dict[str, dict[str, Any]] = {
    "error": {"errno": "ENOSPC"},
    "hang": {"action": "hang"},
    "hang-then-error": {"action": "hang", "errno": "EIO"},
    "delay": {"action": "delay", "delay-ms": 86_400_000},
    "torn": {"action": "torn", "sectors": 3},
    "torn-silently": {"action": "torn", "sectors": 3, "errno": 0},
    "drop": {"action": "drop"},
    "misdirect": {"action": "misdirect", "by": 65536},
    "duplicate": {"action": "duplicate"},
    "corrupt": {"action": "corrupt", "how": "flip", "medium": True},
    "disconnect": {"action": "disconnect"},
    "readonly": {"action": "readonly"},
}


def raw(image: Path) -> tuple[str, ...]:
    return (f"drive=id=vda,file={image},format=raw,{VOLATILE}",)


def qcow2(image: Path) -> tuple[str, ...]:
    """A format over a cache, whose medium is the image's file."""
    return (
        f"blockdev=driver=file,node-name=disk,filename={image}",
        "blockdev=driver=x-volatile-cache,node-name=cache,file=disk",
        "blockdev=driver=qcow2,node-name=format,file=cache",
        "device=virtio-blk,drive=format,id=vda",
    )


def over_qcow2(image: Path) -> tuple[str, ...]:
    """A cache over a format, which is its medium."""
    return (f"drive=id=vda,file={image},format=qcow2,{VOLATILE}",)


CHAINS = {"raw": (raw, "vda"), "qcow2": (qcow2, "cache"), "over-qcow2": (over_qcow2, "vda")}


@contextmanager
def chain(name: str, directory: Path) -> Iterator[tuple[Live, Qmp, str]]:
    """A machine whose first block is L; the name is what the cache is found by."""
    keys, device = CHAINS[name]
    image = directory / "disk.img"
    if name == "raw":
        make_image(image, MIB, 0x11)
    else:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], check=True)
    with Hatched(directory, *keys(image)) as machine, machine.qmp() as qmp:
        with machine.guest() as guest:
            guest.pwrite(b"L" * BLOCK, 0)
            guest.flush()
        yield machine, qmp, device


def first(machine: Live, export: str = "vda") -> bytes:
    with machine.guest(export) as guest:
        return bytes(guest.pread(BLOCK, 0))


@pytest.fixture(name="standing", scope="module", params=CHAINS)
def _standing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Live, Qmp, str]]:
    with chain(request.param, tmp_path_factory.mktemp("m")) as made:
        yield made


@pytest.mark.parametrize("rule", RULES)
def test_what_is_kept_is_there_whatever_rule_is_below(
    standing: tuple[Live, Qmp, str], rule: str
) -> None:
    machine, qmp, device = standing
    qmp("x-fault-clear")
    with machine.guest() as guest:
        guest.pwrite(b"L" * BLOCK, 0)
        guest.flush()
    qmp("x-fault-add", node_name="disk", id="r", **({"iotype": "write"} | RULES[rule]))
    with machine.guest() as guest:
        guest.pwrite(b"H" * BLOCK, 0)
        told = qmp("x-power-cut", keep="all")
    assert (told["dropped"], told["torn"], told["unusable"]) == (0, 0, [])
    assert told["kept"] and not told["caches"][0]["refused"]
    assert first(machine) == b"H" * BLOCK
    assert [one["hits"] for one in qmp("x-query-faults")] == [0]
    assert qmp("x-crash-enumerate", device=device)[0]["dropped"] == 0


FLUSH_RULES: dict[str, dict[str, Any]] = {
    "flush-error": {"iotype": "flush"},
    "flush-hang": {"iotype": "flush", "action": "hang"},
    **{name: {"iotype": "write", **RULES[name]} for name in ("error", "hang", "torn", "readonly")},
}


@pytest.mark.parametrize("rule", FLUSH_RULES)
def test_clones_beside_a_flush_agree_with_the_cut(rule: str, tmp_path: Path) -> None:
    """Each state has its own contents, which are those that the cut leaves."""
    for keep in ("none", "all", "2.1-2"):
        with chain("raw", tmp_path) as (machine, qmp, _):
            with machine.guest() as guest:
                guest.pwrite(b"H" * BLOCK, 0)
                qmp("x-fault-add", node_name="disk", id="r", **FLUSH_RULES[rule])
                guest.aio_flush()
                qmp("x-fault-wait", id="r", hits=1)
                while "hang" not in rule and guest.aio_in_flight():
                    guest.poll(-1)
                states = [one["state"] for one in qmp("x-crash-enumerate", device="vda")]
                assert len(states) == 1 << BLOCK // 512
                found = {}
                for state in (*states[:20], f"2-2:{keep}"):
                    qmp("x-crash-clone", device="vda", export="c", state=state)
                    found[state] = first(machine, "c")
                    qmp("x-crash-drop", export="c")
                assert len(set(found.values())) == len(found)
                assert found["2-2:none"] == b"L" * BLOCK
                told = qmp("x-power-cut", device="vda", state=f"2-2:{keep}")
                assert told["caches"][0]["state"] == f"2-2:{keep}"
            assert first(machine) == found[f"2-2:{keep}"]


def test_what_hangs_twice_below_does_not_keep_the_power_away(tmp_path: Path) -> None:
    """A write-back that the first rule lets go meets another one while the power is off."""
    with chain("raw", tmp_path) as (machine, qmp, _):
        file = qmp("query-block")[0]["inserted"]["image"]["filename"]
        below = next(
            one["node-name"] for one in qmp("query-named-block-nodes")
            if one["drv"] == "file" and one["file"] == file
        )  # fmt: skip
        qmp("x-fault-add", node_name="disk", id="r", iotype="write", action="delay", delay_ms=300)
        qmp("x-fault-add", node_name=below, id="s", iotype="write", action="hang")
        with machine.guest() as guest:
            guest.pwrite(b"H" * BLOCK, 0)
            guest.aio_flush()
            qmp("x-fault-wait", id="r", hits=1)
            told = qmp("x-power-cut", keep="none")
        assert (told["kept"], told["dropped"]) == (0, 1)
        qmp("x-fault-clear")
        assert first(machine) == b"L" * BLOCK


def test_a_cache_over_a_cache(tmp_path: Path) -> None:
    """What the upper one keeps is on the platter of the lower one, for certain."""
    image = make_image(tmp_path / "disk.img", MIB, 0x11)
    keys = (
        f"blockdev=driver=file,node-name=disk,filename={image}",
        "blockdev=driver=x-volatile-cache,node-name=lower,file=disk",
        "blockdev=driver=x-volatile-cache,node-name=upper,file=lower",
        "device=virtio-blk,drive=upper,id=vda",
    )
    with Live(tmp_path, *keys) as machine, machine.qmp() as qmp:
        with machine.guest() as guest:
            guest.pwrite(b"H" * BLOCK, 0)
            told = qmp("x-power-cut", keep="all")
        assert {one["node-name"]: one["kept"] for one in told["caches"]} == {"upper": 1, "lower": 0}
        assert first(machine) == b"H" * BLOCK
        assert image.read_bytes()[:BLOCK] == b"H" * BLOCK
        assert qmp("x-power-cut", keep="none")["dropped"] == 0
        assert first(machine) == b"H" * BLOCK


@pytest.mark.parametrize("short", ["", ",file.x-short-write=on"])
def test_a_full_volume_refuses_what_was_to_be_kept(short: str, tmp_path: Path) -> None:
    """The reply says what could not be written; the state is what is read after."""
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, MIB)
    drive = f"drive=id=vda,file={image},format=raw,cache.x-volatile=on,file.x-physical-size=64k"
    with Live(tmp_path, drive + short) as machine, machine.qmp() as qmp:
        with machine.guest() as guest:
            guest.pwrite(b"a" * BLOCK, 0)
            guest.pwrite(b"b" * BLOCK, 65536 - 1024)
            guest.pwrite(b"c" * BLOCK, 131072)
            guest.pwrite(b"d" * BLOCK, 131072)
            told = qmp("x-power-cut", keep="all")["caches"][0]
        with machine.guest() as guest:
            now = bytes(guest.pread(MIB, 0))
        has = {
            "1-4:1": (b"a" * BLOCK, 1, 3, 0, 65536 - 1024, BLOCK),
            "1-4:1+2.0-1": (b"a" * BLOCK, 1, 2, 1, 65536, BLOCK - 1024),
        }[told["state"]]
        data, kept, dropped, torn, start, length = has
        assert (told["kept"], told["dropped"], told["torn"]) == (kept, dropped, torn)
        reason = "No space left on device"
        assert told["refused"] == [
            {"offset": start, "length": length, "reason": reason},
            {"offset": 131072, "length": BLOCK, "reason": reason},
        ]
        part = b"b" * 1024 if torn else b""
        assert now == (data.ljust(65536 - 1024, b"\0") + part).ljust(MIB, b"\0")
