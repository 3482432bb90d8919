# SPDX-License-Identifier: MIT
"""New images, byte for byte as QEMU makes them, and growth of tables from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blockcore.nodes.drivers.qcow2.create import create_image
from blockcore.qapi.names import QmpError
from qcow2_images import (
    Around,
    check_clean,
    close,
    content,
    create,
    open_file,
    open_on,
    opened,
    qemu_img,
    qemu_io,
    read,
)
from sim import perform

SAME: dict[str, tuple[str, dict[str, Any], str]] = {
    "default": ("100M", {}, ""),
    "empty": ("0", {}, ""),
    "odd": ("1000", {}, ""),
    "small clusters": ("64k", {"cluster_size": 512}, "cluster_size=512"),
    "4k": ("1G", {"cluster_size": 4096}, "cluster_size=4096"),
    "2M": ("1T", {"cluster_size": 2 << 20}, "cluster_size=2M"),
    "v2": ("1G", {"version": 2}, "compat=0.10"),
    "lazy": ("1G", {"lazy_refcounts": True}, "lazy_refcounts=on"),
    "backing": (
        "10M",
        {"backing_file": "base", "backing_format": "raw"},
        "backing_file=base,backing_fmt=raw",
    ),
    "backing, small clusters": (
        "64k",
        {"backing_file": "base", "backing_format": "raw", "cluster_size": 512},
        "cluster_size=512,backing_file=base,backing_fmt=raw",
    ),
}

UNITS = {"k": 10, "M": 20, "G": 30, "T": 40}


def size_of(text: str) -> int:
    return int(text[:-1]) << UNITS[text[-1]] if text[-1] in UNITS else int(text)


def ours(path: Path, size: int, **more: Any) -> Path:
    path.write_bytes(b"")
    file = open_file(path, Around())
    perform(create_image(file, size, **more))
    close(file)
    return path


@pytest.mark.parametrize(("size", "more", "options"), SAME.values(), ids=SAME)
def test_as_qemu_img_makes_them(
    tmp_path: Path, size: str, more: dict[str, Any], options: str
) -> None:
    theirs = tmp_path / "theirs"
    (tmp_path / "base").write_bytes(bytes(512))
    given = ("-o", options) if options else ()
    qemu_img("create", "-q", "-f", "qcow2", *given, theirs, size)
    assert ours(tmp_path / "ours", size_of(size), **more).read_bytes() == theirs.read_bytes()


def test_tables_of_many_clusters(tmp_path: Path) -> None:
    """What QEMU lays out otherwise is right as well."""
    path = ours(tmp_path / "image", 8 << 30, cluster_size=512)
    check_clean(path)
    assert json.loads(qemu_img("info", "--output=json", path))["virtual-size"] == 8 << 30
    assert "error" not in qemu_io(path, "write -P 7 8191M 1M", "read -P 7 8191M 1M")
    check_clean(path)


REFUSED: dict[str, tuple[int, dict[str, Any], str]] = {
    "no power of two": (0, {"cluster_size": 1000}, "Cluster size must be a power of two"),
    "too small": (0, {"cluster_size": 256}, "Cluster size must be a power of two"),
    "too large": (0, {"cluster_size": 4 << 20}, "Cluster size must be a power of two"),
    "lazy v2": (0, {"version": 2, "lazy_refcounts": True}, "Lazy refcounts only supported"),
    "long name": (0, {"backing_file": "b" * 1024}, "Backing file name too long"),
    "too big": (1 << 60, {"cluster_size": 512}, "The image size is too large for file format"),
}


@pytest.mark.parametrize(("size", "more", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path: Path, size: int, more: dict[str, Any], words: str) -> None:
    with pytest.raises(QmpError, match=words):
        ours(tmp_path / "image", size, **more)
    assert not (tmp_path / "image").read_bytes()


def test_refcount_table_and_l1_table_grow(tmp_path: Path) -> None:
    """One cluster of a refcount table is good for 8 MiB here, one of an L1 table for 2 MiB."""
    path = ours(tmp_path / "image", 1 << 20, cluster_size=512)
    around = Around()
    node = open_on(open_file(path, around, no_flush=True), around)
    before = node.header.reftable_clusters, node.header.l1_entries
    perform(node.truncate(30 << 20))
    step = 256 << 10
    for offset in range(0, 30 << 20, step):
        perform(node.pwrite(offset, memoryview(bytes([1 + offset // step]) * step)))
    assert node.header.reftable_clusters > before[0] and node.header.l1_entries > before[1]
    expected = b"".join(bytes([1 + number]) * step for number in range(120))
    assert read(node) == expected
    close(node)
    check_clean(path)
    assert content(path) == expected


@pytest.mark.parametrize("bits", range(9, 22))
def test_every_cluster_size_both_ways(tmp_path: Path, bits: int) -> None:
    """QEMU's image, with all kinds of clusters over a backing file, read here; ours there."""
    size = 1 << bits
    (tmp_path / "base").write_bytes(b"\x0b" * 9 * size)
    theirs = create(tmp_path / "theirs", 10 * size, "-b", "base", "-F", "raw", cluster_size=size)
    qemu_io(
        theirs,
        f"write -P 1 0 {size + 512}",
        f"write -z {2 * size} {size}",
        f"discard {3 * size} {size}",
        f"write -c -P 4 {4 * size} {size}",
        f"write -P 5 {6 * size - 512} 512",
    )
    qemu_img("convert", "-O", "raw", theirs, tmp_path / "content")
    with opened(theirs) as node:
        assert read(node) == (tmp_path / "content").read_bytes()
    path = ours(tmp_path / "ours", 10 * size, cluster_size=size)
    expected = bytearray(10 * size)
    with opened(path) as node:
        for offset in (512, 3 * size, 6 * size, 9 * size - 512):
            data = bytes([1 + offset // size]) * (size + 512)
            perform(node.pwrite(offset, memoryview(data)))
            expected[offset : offset + len(data)] = data
        perform(node.zero(3 * size, size, may_unmap=True))
        expected[3 * size : 4 * size] = bytes(size)
    check_clean(path)
    assert content(path) == expected


def test_opening_a_large_image_reads_little(tmp_path: Path) -> None:
    """1 TiB: the header, the L1 table and the refcount table, until more is needed."""
    path = create(tmp_path / "image", "1T")
    around = Around()
    file = open_file(path, around)
    amounts: list[int] = []
    inner = file.do_pread

    async def counted(offset: int, buf: memoryview) -> None:
        amounts.append(len(buf))
        await inner(offset, buf)

    file.do_pread = counted  # type: ignore[method-assign]
    node = open_on(file, around)
    opened, amounts[:] = sum(amounts), []
    assert opened <= (2 << 20) + 2048 * 8 + 65536
    perform(node.pwrite(1 << 39, memoryview(b"x")))
    assert sum(amounts) <= 2 * 65536
    close(node)
