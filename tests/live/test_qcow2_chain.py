# SPDX-License-Identifier: MIT
"""qcow2 images in the graph: how they are found, what lies below them, and a machine with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blockcore.machine.graph_changes import blockdev_add, blockdev_del
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.flat_options import open_options
from blockcore.nodes.definitions.options import parse_blockdev_options
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.drivers.raw import RawNode
from blockcore.nodes.node import BlockNode
from blockcore.qapi.keyval import parse_opts
from blockcore.qapi.names import QmpError
from live import Live
from qcow2_images import check_clean, content, create, qemu_img, qemu_io, read
from sim import Sim, new_machine, perform

K = 1024


@pytest.fixture(name="machine")
def _machine(tmp_path: Path) -> Machine:
    machine = new_machine(Sim(0))
    machine.graph.directory = str(tmp_path)
    return machine


def open_name(machine: Machine, name: str, options: str = "") -> BlockNode:
    """As -drive would."""
    node: BlockNode = perform(machine.graph.open(open_options(parse_opts(options), name)))
    return node


def image(path: Path, fill: int, *more: object, cluster_size: int = 65536) -> Path:
    create(path, "1M", *more, cluster_size=cluster_size)
    qemu_io(path, f"write -P {fill} {fill * 64}k 64k")
    return path


def release(machine: Machine, node: BlockNode) -> None:
    perform(machine.graph.release(node))
    assert not machine.graph.nodes


NAMES = {
    "relative": "{0}",
    "absolute": "{1}/{0}",
    "file:": "file:{1}/{0}",
    "json:": 'json:{{"driver":"raw","file":{{"driver":"file","filename":"{1}/{0}"}}}}',
    "blkdebug": "blkdebug::{1}/{0}",
}


@pytest.mark.parametrize("image_format", ["raw", None])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_backing_names(
    machine: Machine, tmp_path: Path, name: str, image_format: str | None
) -> None:
    """As they stand in the header, with and without a format."""
    sub = tmp_path / "sub"
    sub.mkdir()
    (sub / "base.raw").write_bytes(b"\7" * (1 << 20))
    top = image(sub / "top", 1)
    qemu_img("rebase", "-u", "-b", name.format("base.raw", sub), "-F", "raw", top)
    if image_format is None:
        header = top.read_bytes()
        top.write_bytes(header.replace(b"\xe2\x79\x2a\xca", b"\x12\x34\x56\x78", 1))
    node = open_name(machine, "sub/top")
    assert isinstance(node, Qcow2Node) and node.backing is not None
    assert node.backing.read_only and isinstance(node.backing, RawNode)
    assert node.filename == "sub/top"
    assert read(node) == b"\7" * (64 * K) + b"\1" * (64 * K) + b"\7" * (896 * K)
    assert read(node) == content(top)
    release(machine, node)


def test_a_chain_of_five(machine: Machine, tmp_path: Path) -> None:
    image(tmp_path / "0", 0)
    for level in range(1, 5):
        below = ("-b", str(level - 1), "-F", "qcow2")
        image(tmp_path / str(level), level, *below, cluster_size=512 << (2 * level))
    node = open_name(machine, "4")
    assert read(node) == content(tmp_path / "4")
    assert len(list(machine.graph.subtree(node))) == 10
    release(machine, node)


MERGED = {
    "backing.node-name=b": ("raw", "base.raw", "top"),
    "backing.driver=qcow2": "Could not open backing file: Image is not in qcow2 format",
    "backing.driver=file": ("file", "base.raw", "top"),
    "backing.file.locking=off,backing.cache.direct=on": ("raw", "base.raw", "top"),
    "backing.file.x-physical-size=1M": ("raw", "base.raw", "top"),
    "backing.offset=512": ("raw", "json:{", "json:{"),
    "backing.size=65": "Could not open backing file: Specified size is not multiple of 512",
    "backing.file.driver=blkdebug": ("raw", "blkdebug::base.raw", "json:{"),
    "backing.file.filename=other.raw": ("raw", "other.raw", "json:{"),
    "backing.file.filename=q,backing.driver=qcow2": ("qcow2", "q", "json:{"),
    "backing.file.filename=q": ("raw", "q", "json:{"),
    "backing.driver=null-co": (
        "Could not open backing file: The only allowed filename for this driver is 'null-co://'"
    ),
    "backing.driver=file,backing.filename=other.raw": (
        "Could not open backing file:"
        " Can't specify 'file' and 'filename' options at the same time"
    ),
    "backing.nonsense=1": (
        "Could not open backing file: Block format 'raw' does not support the option 'nonsense'"
    ),
    "backing.backing.driver=raw": (
        "Could not open backing file: Driver doesn't support backing files"
    ),
    "backing=n,backing.driver=raw": (
        "Could not open backing file: Cannot reference an existing block device"
        " with additional options or a new filename"
    ),
    "backing.file=n": (
        "Could not open backing file: Cannot reference an existing block device"
        " with additional options or a new filename"
    ),
    "node-name=t,backing=t": "Making 't' a backing child of 't' would create a cycle",
    "node-name=t,backing.node-name=t": (
        "Could not open backing file: Duplicate nodes with node-name='t'"
    ),
    "node-name=t,file.node-name=t": "Duplicate nodes with node-name='t'",
    "backing.node-name=9": "Could not open backing file: Invalid node-name: '9'",
}
"""Options of a qcow2 drive on base.raw: the backing node's driver and name, and the image's."""


@pytest.mark.parametrize(("text", "expected"), MERGED.items(), ids=MERGED)
def test_options_over_what_the_header_says(
    machine: Machine, tmp_path: Path, text: str, expected: str | tuple[str, str, str]
) -> None:
    """All compared with qemu-system's -drive."""
    (tmp_path / "base.raw").write_bytes(bytes(1 << 20))
    (tmp_path / "other.raw").write_bytes(bytes(1 << 20))
    image(tmp_path / "q", 1)
    create(tmp_path / "top", "1M", "-b", "base.raw", "-F", "raw")
    if isinstance(expected, str):
        with pytest.raises(QmpError) as caught:
            open_name(machine, "top", f"driver=qcow2,{text}")
        assert caught.value.desc == expected
        assert not machine.graph.nodes
        return
    node = open_name(machine, "top", f"driver=qcow2,{text}")
    assert node.backing is not None and node.backing.read_only
    assert node.backing.driver == expected[0]
    assert node.backing.filename.startswith(expected[1])
    assert node.filename.startswith(expected[2])
    release(machine, node)


def test_options_along_a_chain(machine: Machine, tmp_path: Path) -> None:
    image(tmp_path / "0", 1)
    image(tmp_path / "1", 2, "-b", "0", "-F", "qcow2")
    image(tmp_path / "2", 3, "-b", "1", "-F", "qcow2")
    name = 'json:{"driver":"qcow2","backing":{"backing":{"node-name":"b"}},"file.filename":"2"}'
    node = open_name(machine, name, "backing.node-name=m")
    assert node.backing is machine.graph.nodes["m"]
    assert node.backing.backing is machine.graph.nodes["b"]
    release(machine, node)
    node = open_name(machine, "2", "backing.backing=")
    assert node.backing is not None and node.backing.backing is None
    release(machine, node)


def test_options_lead_out_of_a_cycle(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "base.raw").write_bytes(bytes(K))
    create(tmp_path / "top", "1M", "-u", "-b", "top", "-F", "qcow2")
    with pytest.raises(QmpError, match="creates an infinite loop"):
        open_name(machine, "top", "backing.node-name=m")
    options = "backing.file.filename=base.raw,backing.driver=raw"
    release(machine, open_name(machine, "top", options))


@pytest.mark.parametrize("driver", ["raw", "file", "null-co", None])
def test_what_has_no_backing_file(machine: Machine, tmp_path: Path, driver: str | None) -> None:
    (tmp_path / "r").write_bytes(bytes(K))
    name = {"null-co": "null-co://"}.get(driver or "", "r")
    for text in ("backing=n", "backing.driver=raw"):
        with pytest.raises(QmpError, match="^Driver doesn't support backing files$"):
            open_name(machine, name, f"driver={driver},{text}" if driver else text)
    assert not machine.graph.nodes


BACKING = {
    "null": ({"backing": None}, 0),
    "definition": (
        {"backing": {"driver": "raw", "file": {"driver": "file", "filename": "other.raw"}}},
        9,
    ),
    "node": ({"backing": "other"}, 9),
    "no node": ({"backing": ""}, 0),
    "the header's": ({}, 7),
}


@pytest.mark.parametrize(("more", "byte"), BACKING.values(), ids=BACKING)
def test_backing_as_defined(
    machine: Machine, tmp_path: Path, more: dict[str, object], byte: int
) -> None:
    (tmp_path / "base.raw").write_bytes(b"\7" * K)
    (tmp_path / "other.raw").write_bytes(b"\x09" * K)
    create(tmp_path / "top", "1M", "-b", "base.raw", "-F", "raw")
    other = {
        "driver": "raw",
        "node-name": "other",
        "read-only": True,
        "file": {"driver": "file", "filename": "other.raw"},
    }
    perform(blockdev_add(machine, parse_blockdev_options(other)))
    top = {"driver": "qcow2", "file": {"driver": "file", "filename": "top"}, **more}
    node = perform(machine.graph.open(parse_blockdev_options(top)))
    assert read(node, 0, 2 * K) == bytes([byte]) * K + bytes(K)
    assert node.filename.startswith("json:") == bool(more)
    if more:
        assert "backing" in json.loads(node.filename.removeprefix("json:"))
    perform(machine.graph.release(node))
    perform(blockdev_del(machine, "other"))
    assert not machine.graph.nodes


def test_chains_that_cannot_be_opened(machine: Machine, tmp_path: Path) -> None:
    def error(name: str) -> str:
        with pytest.raises(QmpError) as caught:
            open_name(machine, name)
        assert not machine.graph.nodes
        return caught.value.desc

    image(tmp_path / "a", 1)
    image(tmp_path / "b", 2, "-b", "a", "-F", "qcow2")
    qemu_img("rebase", "-u", "-b", "b", "-F", "qcow2", tmp_path / "a")
    assert "'a' creates an infinite loop." in error("a")
    qemu_img("rebase", "-u", "-b", "gone", "-F", "qcow2", tmp_path / "a")
    missing = "Could not open 'gone': No such file or directory"
    assert error("a") == f"Could not open backing file: {missing}"
    qemu_img("rebase", "-u", "-b", "b", "-F", "raw", tmp_path / "a")
    header = bytearray((tmp_path / "a").read_bytes())
    place = header.index(b"raw\0")
    header[place : place + 3] = b"abc"
    (tmp_path / "a").write_bytes(header)
    assert error("a") == "Could not open backing file: Unknown driver 'abc'"


def test_the_format_is_probed(machine: Machine, tmp_path: Path) -> None:
    image(tmp_path / "q", 1)
    (tmp_path / "r").write_bytes(bytes(K))
    (tmp_path / "v").write_bytes(b"KDMV" + bytes(K))
    node = open_name(machine, "q", "lazy-refcounts=on,node-name=n")
    assert isinstance(node, Qcow2Node) and node.node_name == "n"
    release(machine, node)
    assert isinstance(node := open_name(machine, "r"), RawNode)
    release(machine, node)
    with pytest.raises(QmpError, match="Image format 'vmdk', which probing has found"):
        open_name(machine, "v")
    with pytest.raises(QmpError, match="'raw' does not support the option 'lazy-refcounts'"):
        open_name(machine, "r", "lazy-refcounts=on")
    assert not machine.graph.nodes


def test_a_guest_cannot_make_a_probed_image_another_format(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "r").write_bytes(bytes(4 * K))
    header = create(tmp_path / "q", "1M").read_bytes()[:512]
    node = open_name(machine, "r")
    perform(node.pwrite(0, memoryview(b"a harmless text")))
    perform(node.pwrite(512, memoryview(header)))
    before = (tmp_path / "r").read_bytes()
    for offset, data in ((0, header), (0, header + bytes(512)), (0, b"QED\0")):
        with pytest.raises(PermissionError):
            perform(node.pwrite(offset, memoryview(data)))
    perform(node.pwrite(0, memoryview(b"QF")))
    perform(node.pwrite(4, memoryview(header[4:512])))
    with pytest.raises(PermissionError):
        perform(node.pwrite(2, memoryview(b"I\xfb")))
    assert before[512:] == (tmp_path / "r").read_bytes()[512:]
    release(machine, node)
    node = open_name(machine, "r", "driver=raw")
    perform(node.pwrite(0, memoryview(header)))
    release(machine, node)


def test_the_name_in_the_header_can_be_changed(machine: Machine, tmp_path: Path) -> None:
    image(tmp_path / "base", 1)
    image(tmp_path / "other", 2)
    image(tmp_path / "top", 3, "-b", "base", "-F", "qcow2")
    node = open_name(machine, "top", "discard=unmap")
    assert isinstance(node, Qcow2Node)
    perform(node.pwrite(0, memoryview(b"x" * K)))
    perform(node.do_change_backing_file("other", "qcow2"))
    release(machine, node)
    info = json.loads(qemu_img("info", "--output=json", tmp_path / "top"))
    assert (info["backing-filename"], info["backing-filename-format"]) == ("other", "qcow2")
    check_clean(tmp_path / "top")


@pytest.mark.slow
def test_a_machine_with_an_overlay(tmp_path: Path) -> None:
    """Over NBD: written, read, flushed; clean when the machine has ended, and as QEMU reads it."""
    image(tmp_path / "base", 1)
    top = create(tmp_path / "top", "1M", "-b", "base", "-F", "qcow2")
    expected = bytearray(content(top))
    with Live(tmp_path, "drive=id=vda,file=top,format=qcow2,discard=unmap") as live:
        with live.guest("vda") as guest:
            for offset, byte, length in ((0, 5, 4096), (70000, 6, 300000), (1000, 7, 64)):
                for _ in range(3):
                    guest.pwrite(bytes([byte]) * length, offset)
                expected[offset : offset + length] = bytes([byte]) * length
            guest.zero(65536, 65536)
            expected[65536:131072] = bytes(65536)
            guest.trim(65536, 131072)
            expected[131072:196608] = bytes(65536)
            assert guest.pread(1 << 20, 0) == expected
            guest.flush()
            guest.pwrite(b"\x08" * 4096, 900 * K)
            expected[900 * K : 904 * K] = b"\x08" * 4096
    check_clean(top)
    assert content(top) == expected
