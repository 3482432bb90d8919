# SPDX-License-Identifier: MIT
"""Images with bitmaps that QEMU has stored in them: never made to lie, and removed properly."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from blockcore.machine.machine import Machine
from blockcore.nodes.drivers.qcow2.extensions import BITMAPS, extensions
from blockcore.nodes.drivers.qcow2.settings import Qcow2Settings
from blockcore.qapi.names import QmpError
from qcow2_disk import Disk, crashes, judge
from qcow2_images import Around, check_clean, create, open_on, qemu_img, qemu_io, read
from sim import Sim, execute, new_machine, perform

MIB = 1 << 20
KIB = 1 << 10

DROP = Qcow2Settings(drop_bitmaps=True)

REFUSED = (
    "The image has stored bitmaps ('first', 'second'), which writing would invalidate: open it"
    " read-only, or with x-drop-bitmaps=on to remove them"
)


def with_bitmaps(path: Path, *more: object, **options: Any) -> Path:
    """An image with two bitmaps, of which one records; both are of several clusters."""
    create(path, "64M", *more, **options)
    qemu_img("bitmap", "--add", "-g", "512", path, "first")
    qemu_img("bitmap", "--add", "-g", "4k", "--disable", path, "second")
    qemu_io(path, *(f"write -P 1 {at}M 100k" for at in (0, 9, 30, 63)))
    qemu_img("bitmap", "--merge", "first", path, "second")
    assert len(stored(path)) == 2
    return path


def stored(path: Path) -> list[dict[str, Any]]:
    """What qemu-img finds."""
    info = json.loads(qemu_img("info", "--output=json", path))
    found: list[dict[str, Any]] = info["format-specific"]["data"].get("bitmaps", [])
    return found


@pytest.fixture(name="machine")
def _machine(tmp_path: Path) -> Machine:
    machine = new_machine(Sim(0))
    machine.graph.directory = str(tmp_path)
    return machine


def add(machine: Machine, path: Path, **options: Any) -> None:
    file = {"driver": "file", "filename": path.name}
    perform(execute(machine, "blockdev-add", driver="qcow2", file=file, **options))


def test_for_writing_it_is_refused(machine: Machine, tmp_path: Path) -> None:
    path = with_bitmaps(tmp_path / "a.qcow2")
    before = path.read_bytes()
    with pytest.raises(QmpError) as caught:
        add(machine, path, node_name="a")
    assert caught.value.desc == REFUSED
    assert not machine.graph.nodes and path.read_bytes() == before


def test_read_only_they_are_shown_and_kept(machine: Machine, tmp_path: Path) -> None:
    path = with_bitmaps(tmp_path / "a.qcow2")
    before = path.read_bytes()
    add(machine, path, node_name="a", read_only=True)
    shown = perform(execute(machine, "query-named-block-nodes"))
    (image,) = (node["image"] for node in shown if node["node-name"] == "a")
    assert image["format-specific"]["data"]["bitmaps"] == stored(path)
    assert read(machine.graph.nodes["a"], 0, 4096) == b"\1" * 4096
    add(machine, create(tmp_path / "top", "64M"), node_name="top", backing="a")
    assert read(machine.graph.nodes["top"], 9 * MIB, 4096) == b"\1" * 4096
    options = {"driver": "qcow2", "node-name": "a", "read-only": False}
    options["file"] = machine.graph.nodes["a"].children["file"].node_name
    with pytest.raises(QmpError) as caught:
        perform(execute(machine, "blockdev-reopen", options=[options]))
    assert caught.value.desc == REFUSED
    perform(machine.graph.close_all())
    assert path.read_bytes() == before


@pytest.mark.parametrize("drop", [False, True])
def test_a_commit_opens_it_for_writing(tmp_path: Path, drop: bool) -> None:
    machine = new_machine(sim := Sim(0))
    machine.graph.directory = str(tmp_path)
    base = with_bitmaps(tmp_path / "base.qcow2")
    before = base.read_bytes()
    for name, below in (("mid", "base.qcow2"), ("top", "mid")):
        create(tmp_path / name, "64M", "-b", below, "-F", "qcow2")
        qemu_io(tmp_path / name, "write -P 2 1M 64k")
    given: dict[str, Any] = {"driver": "qcow2", "node-name": "base"}
    given |= {"file": {"driver": "file", "filename": "base.qcow2"}, "x-drop-bitmaps": drop}
    mid = {"driver": "qcow2", "node-name": "mid", "backing": given}
    mid["file"] = {"driver": "file", "filename": "mid"}
    add(machine, tmp_path / "top", node_name="top", backing=mid)
    commit = {"job_id": "j", "device": "top", "top_node": "mid", "base_node": "base"}
    if not drop:
        with pytest.raises(QmpError) as caught:
            perform(execute(machine, "block-commit", **commit))
        assert caught.value.desc == REFUSED
        perform(machine.graph.close_all())
        assert base.read_bytes() == before
        return
    sim.start("commit", execute(machine, "block-commit", **commit))
    sim.run()
    assert not machine.jobs
    perform(machine.graph.close_all())
    check_clean(base)
    assert not stored(base) and "failed" not in qemu_io(base, "read -P 2 1M 64k")


@pytest.mark.parametrize("cluster_size", [512, 4096, 65536])
def test_dropped_without_a_trace(machine: Machine, tmp_path: Path, cluster_size: int) -> None:
    path = with_bitmaps(tmp_path / "a.qcow2", cluster_size=cluster_size)
    clean = qemu_img("check", "--output=json", path)
    add(machine, path, node_name="a", x_drop_bitmaps=True)
    assert not stored(path), "before anything can be written"
    node = machine.graph.nodes["a"]
    perform(node.pwrite(20 * MIB, memoryview(b"\7" * 300_000)))
    perform(machine.graph.close_all())
    check_clean(path)
    assert json.loads(clean)["check-errors"] == 0
    assert "failed" not in qemu_io(path, "read -P 7 20M 300000", "read -P 1 63M 100k")


def test_dropped_by_reopening(machine: Machine, tmp_path: Path) -> None:
    path = with_bitmaps(tmp_path / "a.qcow2")
    add(machine, path, node_name="a", read_only=True)
    file = machine.graph.nodes["a"].children["file"].node_name
    options = {"driver": "qcow2", "node-name": "a", "file": file, "x-drop-bitmaps": True}
    perform(execute(machine, "blockdev-reopen", options=[options]))
    perform(machine.graph.close_all())
    check_clean(path)
    assert not stored(path)


def test_what_is_worthless_already_does_not_count(machine: Machine, tmp_path: Path) -> None:
    """A program without knowledge of bitmaps has written: QEMU drops them, and so do we."""
    path, other = with_bitmaps(tmp_path / "a.qcow2"), tmp_path / "b.qcow2"
    data = bytearray(path.read_bytes())
    data[88:96] = bytes(8)
    path.write_bytes(data)
    other.write_bytes(data)
    said = qemu_io(other, "write -P 9 50M 64k")
    assert "all bitmaps are now considered inconsistent" in said
    add(machine, path, node_name="a")
    perform(machine.graph.nodes["a"].pwrite(50 * MIB, memoryview(b"\11" * 65536)))
    perform(machine.graph.close_all())
    assert not stored(path) and not stored(other)
    ours, theirs = (qemu_img("check", one, check=False).splitlines() for one in (path, other))
    leaked = [line for line in theirs if line.startswith("Leaked cluster")]
    assert leaked and leaked == [line for line in ours if line.startswith("Leaked cluster")]
    assert not [line for line in ours if line.startswith("ERROR")]


def test_dropped_from_an_image_that_was_not_closed(machine: Machine, tmp_path: Path) -> None:
    path = with_bitmaps(tmp_path / "a.qcow2", lazy_refcounts="on")
    data = bytearray(path.read_bytes())
    data[79] |= 1
    path.write_bytes(data)
    add(machine, path, node_name="a", x_drop_bitmaps=True)
    perform(machine.graph.close_all())
    check_clean(path)
    assert not stored(path) and path.read_bytes()[79] == 0


def test_a_crash_while_they_are_dropped(tmp_path: Path) -> None:
    """At worst, clusters are leaked; the bitmaps are there as a whole, or not at all."""
    image = with_bitmaps(tmp_path / "a.qcow2", cluster_size=4096).read_bytes()
    around = Around()
    disk = Disk(image, around)
    node = open_on(disk, around, settings=DROP)
    perform(node.do_close())
    assert judge(disk.data) == ([], 0)
    moments = list(crashes(disk))
    assert len(moments) > 1
    crashed = tmp_path / "crashed"
    for _, data in crashes(disk):
        crashed.write_bytes(data)
        said = qemu_img("check", crashed, check=False)
        assert "ERROR" not in said, said
        assert len(stored(crashed)) in (0, 2)


@pytest.mark.parametrize("settings", [Qcow2Settings(), DROP])
def test_a_directory_without_sense(tmp_path: Path, settings: Qcow2Settings) -> None:
    """In QEMU's words, also where the bitmaps are to go."""
    path = with_bitmaps(tmp_path / "a.qcow2", cluster_size=4096)
    data = bytearray(path.read_bytes())
    (body,) = (body for kind, body in extensions(bytes(data[112:4096])) if kind == BITMAPS)
    data[int.from_bytes(body[16:], "big") + 17] = 60
    path.write_bytes(data)
    said = qemu_io(path, "read 0 512").strip()
    around = Around()
    with pytest.raises(QmpError) as caught:
        open_on(Disk(bytes(data), around), around, settings=settings)
    assert said == f"qemu-io: can't open device {path}: {caught.value.desc}"


FAR = 1 << 40

DAMAGE: dict[str, list[tuple[str, int, str, int | str]]] = {
    "none": [],
    "directory behind the end": [("extension", 16, ">Q", FAR)],
    "directory where no file is": [("extension", 16, ">Q", 1 << 63)],
    "directory is the header": [("extension", 16, ">Q", 0)],
    "directory is the L1 table": [("extension", 16, ">Q", "l1")],
    "directory is the refcount table": [("extension", 16, ">Q", "reftable")],
    "directory is a bitmap's table": [("extension", 16, ">Q", "table")],
    "directory too short": [("extension", 8, ">Q", 16)],
    "directory without length": [("extension", 8, ">Q", 0)],
    "directory too long": [("extension", 8, ">Q", 96)],
    "directory of 64 MiB": [("extension", 8, ">Q", 65535 * 1024)],
    "directory of more": [("extension", 8, ">Q", 65535 * 1024 + 1)],
    "two of one name": [("extension", 0, ">I", 2), ("extension", 8, ">Q", 64)],
    "two of one name, in use": [
        *[("extension", 0, ">I", 2), ("extension", 8, ">Q", 64)],
        ("directory", 12, ">I", 1),
    ],
    "table behind the end": [("directory", 0, ">Q", FAR)],
    "table where no file is": [("directory", 0, ">Q", 1 << 63)],
    "table is the header": [("directory", 0, ">Q", 0)],
    "table is the L1 table": [("directory", 0, ">Q", "l1")],
    "table is a refcount block": [("directory", 0, ">Q", "refblock")],
    "table is the directory": [("directory", 0, ">Q", "directory")],
    "table between clusters": [("directory", 0, ">Q", 513)],
    "table without entries": [("directory", 8, ">I", 0)],
    "table with an entry more": [("directory", 8, ">I", 2)],
    "table with many more": [("directory", 8, ">I", 0x2000)],
    "table with the most": [("directory", 8, ">I", 0x8000000)],
    "unknown flags": [("directory", 12, ">I", 8)],
    "in use, and a table without sense": [("directory", 12, ">I", 1), ("table", 0, ">Q", 2)],
    "data behind the end": [("table", 0, ">Q", FAR)],
    "data at the end of all": [("table", 0, ">Q", (1 << 56) - (128 << 10))],
    "data is the L1 table": [("table", 0, ">Q", "l1")],
    "data is a refcount block": [("table", 0, ">Q", "refblock")],
    "data is the table": [("table", 0, ">Q", "table")],
    "data between clusters": [("table", 0, ">Q", 512)],
    "all ones": [("table", 0, ">Q", 1)],
    "all ones, and data": [("table", 0, ">Q", (64 << 10) | 1)],
    "reserved bits": [("table", 0, ">Q", 1 << 56)],
    "an image without length": [("header", 24, ">Q", 0)],
}


def places(data: bytes) -> dict[str, int]:
    """Where the parts of an image are that has one bitmap, whose directory is written twice."""
    (length,) = struct.unpack_from(">I", data, 100)
    at = {"header": 0}
    for kind, body in extensions(data[length:65536]):
        if kind == BITMAPS:
            at["extension"] = data.index(body, length)
            at["directory"] = struct.unpack_from(">Q", body, 16)[0]
    (at["table"],) = struct.unpack_from(">Q", data, at["directory"])
    at["l1"], at["reftable"] = (struct.unpack_from(">Q", data, place)[0] for place in (40, 48))
    (at["refblock"],) = struct.unpack_from(">Q", data, at["reftable"])
    return at


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_what_it_is_for_qemu(
    tmp_path: Path, damage: list[tuple[str, int, str, int | str]], read_only: bool
) -> None:
    """QEMU loads what it finds, also to read the image; here it is only looked at."""
    path = create(tmp_path / "a.qcow2", "64M")
    qemu_img("bitmap", "--add", path, "b")
    data = bytearray(path.read_bytes())
    at = places(bytes(data))
    entry = data[at["directory"] : at["directory"] + 32]
    data[at["directory"] + 32 : at["directory"] + 64] = entry
    for part, offset, kind, value in damage:
        number = value if isinstance(value, int) else at[value]
        struct.pack_into(kind, data, at[part] + offset, number)
    path.write_bytes(data)
    around = Around()
    ours = ""
    try:
        open_on(Disk(bytes(data), around), around, read_only=read_only, settings=DROP)
    except QmpError as exc:
        ours = exc.desc
    said = qemu_img("info", path, check=False) if read_only else qemu_io(path, "read 0 0").strip()
    theirs = said.rpartition(f"{path}': " if read_only else f"{path}: ")[2].strip()
    assert ours == (theirs if "Could not open" in said or "can't open" in said else "")
