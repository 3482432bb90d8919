# SPDX-License-Identifier: MIT
"""Which backing files images may name: the decision, and all the ways to open a chain."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from blockcore.nodes.definitions.allowed_backing import ANY, AllowedBacking, parse_allowed
from blockcore.qapi.names import QmpError
from faultline import CommandError
from live import Live, Qmp, make_image
from qcow2_images import create

MIB = 1 << 20
PLACES = {"/link/x": "/etc/x", "/in": "/images", "/images/up": "/images", "/images/away": "/etc/y"}


def resolve(path: str) -> str:
    """Symbolic links, and where relative names are relative to."""
    path = os.path.join("/work", path)
    for link, target in PLACES.items():
        if path == link or path.startswith(f"{link}/"):
            return os.path.normpath(target + path.removeprefix(link))
    return os.path.normpath(path)


@pytest.mark.parametrize(
    ("text", "name", "allowed"),
    [
        ("/images", "/images/a", True),
        ("/images", "/images/sub/a", True),
        ("/images", "file:/images/a", True),
        ("/images/", "/images/a", True),
        ("/images", "/images", False),
        ("/images", "/images2/a", False),
        ("/images", "/images/../etc/passwd", False),
        ("/images", "/etc/passwd", False),
        ("/images", "/link/x", False),
        ("/images", "/images/away", False),
        ("/images", "/images/up/a", True),
        ("/in", "/images/a", True),
        ("/images", "/in/a", True),
        ("/a:/images:/b", "/images/a", True),
        ("rel", "rel/a", True),
        ("rel", "/work/rel/a", True),
        ("rel", "other/a", False),
        ("/", "/etc/passwd", True),
        ("none", "/images/a", False),
        ("none", "a", False),
    ],
)
def test_paths(text: str, name: str, allowed: bool) -> None:
    refusal = parse_allowed(text).refusal(name, resolve)
    assert refusal == (
        None if allowed else f"'{name}' is not where allow-backing lets images name files"
    )


NAMES = [
    "nbd://host/x",
    "nbd:unix:/images/s",
    "nbd+unix:///x?socket=/images/s",
    'json:{"driver":"file","filename":"/images/a"}',
    "blkdebug::/images/a",
    "null-co://",
    "http://images/a",
    "images:a",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_no_paths(name: str) -> None:
    assert ANY.refusal(name, resolve) is None
    for text in ("/", "/images", "none"):
        refusal = parse_allowed(text).refusal(name, resolve)
        assert refusal is not None and refusal.startswith(f"'{name}' is no path of a file")


@pytest.mark.parametrize("text", ["", ":", "/a:", ":/a", "/a::/b"])
def test_lists_that_make_no_sense(text: str) -> None:
    with pytest.raises(QmpError, match=r"expects DIR\[:DIR...\] or 'none'"):
        parse_allowed(text)


def test_none_is_a_word_and_a_directory() -> None:
    assert parse_allowed("none") == AllowedBacking(())
    assert parse_allowed("./none") == AllowedBacking(("./none",))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Overlays of a file that they may name, and of one that they may not; a chain of both."""
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        make_image(tmp_path / name / "base", MIB, 7)
    os.symlink(tmp_path / "theirs", tmp_path / "ours" / "link")
    overlays = {
        "good": "base",
        "bad": "../theirs/base",
        "linked": "link/base",
        "server": "nbd:unix:/no/such/socket",
    }
    for name, base in overlays.items():
        create(tmp_path / "ours" / name, MIB, "-u", "-b", base, "-F", "raw")
    create(tmp_path / "ours" / "deep", MIB, "-u", "-b", "bad", "-F", "qcow2")
    return tmp_path


@contextmanager
def machine(directory: Path, *keys: str) -> Iterator[Qmp]:
    with Live(directory, "drive=id=vda,driver=null-co,size=1M", *keys) as live, live.qmp() as qmp:
        yield qmp


BAD = ("bad", "linked", "server", "deep")


@pytest.mark.parametrize("name", ["good", *BAD])
def test_at_the_start(name: str, images: Path) -> None:
    for keys, is_open in (([], True), (["allow-backing=ours"], name == "good")):
        if name == "server" and is_open:
            continue
        drive = f"drive=id=vda,file=ours/{name},format=qcow2"
        if is_open:
            with Live(images, drive, *keys) as live, live.guest() as guest:
                assert guest.pread(1, 0) == b"\7"
        else:
            with pytest.raises(AssertionError, match="allow-backing lets images"):
                Live(images, drive, *keys)


def expect_refusal(qmp: Qmp, command: str, **arguments: object) -> None:
    with pytest.raises(CommandError, match="allow-backing lets images name"):
        qmp.execute(command, {key.replace("_", "-"): value for key, value in arguments.items()})


def test_at_run_time(images: Path) -> None:
    """Wherever an image is opened with its chain; what its user defines is not limited."""
    ours = images / "ours"
    with machine(images, "allow-backing=ours") as qmp:
        nodes = len(qmp("query-named-block-nodes"))
        for name in BAD:
            file = {"driver": "file", "filename": str(ours / name)}
            expect_refusal(qmp, "blockdev-add", driver="qcow2", node_name="n", file=file)
        assert len(qmp("query-named-block-nodes")) == nodes
        below = {"driver": "file", "filename": str(images / "theirs" / "base")}
        for number, name in enumerate(("bad", "linked", "server")):
            file = {"driver": "file", "filename": str(ours / name)}
            definition = {"driver": "qcow2", "file": file, "backing": below}
            qmp.execute("blockdev-add", {**definition, "node-name": f"n{number}"})
        good = {"driver": "file", "filename": str(ours / "good")}
        qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": "good", "file": good})


def test_a_name_that_an_image_gets_later(images: Path) -> None:
    """A job or a snapshot opens what it has made by what the user says; the next start looks."""
    with machine(images, "allow-backing=none") as qmp:
        qmp("blockdev-snapshot-sync", device="vda", snapshot_file=str(images / "ours" / "snap"))
        file = {"driver": "file", "filename": str(images / "ours" / "good")}
        expect_refusal(qmp, "blockdev-add", driver="qcow2", node_name="n", file=file)
        target = str(images / "ours" / "bad")
        expect_refusal(
            qmp,
            "blockdev-add",
            driver="raw",
            node_name="r",
            file={"driver": "qcow2", "file": {"driver": "file", "filename": target}},
        )


@pytest.mark.parametrize("driver", ["blkdebug", "nbd", "null-co"])
def test_a_format_that_is_none(driver: str, images: Path) -> None:
    """The header names it, too; with a path there is nothing but that file that it could open."""
    image = images / "ours" / "odd"
    create(image, MIB, "-u", "-b", "base", "-F", "vmdk")
    old, new = b"\xe2\x79\x2a\xca\0\0\0\4vmdk\0\0\0\0", driver.encode()
    data = image.read_bytes()
    assert old in data
    extension = b"\xe2\x79\x2a\xca" + len(new).to_bytes(4, "big") + new + bytes(-len(new) % 8)
    image.write_bytes(data.replace(old, extension))
    node: dict[str, Any] = {"driver": "qcow2", "node-name": "n", "file": {"driver": "file"}}
    node["file"]["filename"] = str(image)
    with machine(images, "allow-backing=ours") as qmp:
        if driver == "blkdebug":
            qmp.execute("blockdev-add", node)
            nodes = qmp("query-named-block-nodes", flat=True)
            files = {node["file"] for node in nodes if node["drv"] == "file"}
            assert files == {str(image), str(images / "ours" / "base")}
        else:
            with pytest.raises(CommandError, match="Could not open backing file"):
                qmp.execute("blockdev-add", node)
