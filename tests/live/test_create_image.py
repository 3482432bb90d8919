# SPDX-License-Identifier: MIT
"""Image files made by commands: where, of what format, and what is left after a failure."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from blockcore.machine.graph_changes import blockdev_add
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.options import parse_blockdev_options
from blockcore.nodes.driver import BackingFile
from blockcore.nodes.graph.create import create_image_file
from blockcore.qapi.names import QmpError
from live import TIMEOUT_S
from qcow2_images import check_clean, content, create, qemu_img
from sim import Sim, new_machine, perform

MIB = 1 << 20


@pytest.fixture(name="machine")
def _machine(tmp_path: Path) -> Machine:
    machine = new_machine(Sim(0))
    machine.graph.directory = str(tmp_path)
    return machine


def make(machine: Machine, name: str, image_format: str, size: int, *backing: str) -> None:
    below = BackingFile(*backing) if backing else None
    perform(create_image_file(machine.graph, machine, name, image_format, size, below))


def refused(machine: Machine, *arguments: Any) -> str:
    with pytest.raises(QmpError) as caught:
        make(machine, *arguments)
    assert not machine.graph.nodes
    return caught.value.desc


@contextmanager
def served(path: Path, *options: str) -> Iterator[str]:
    """A file by qemu-nbd, as its size is now: gives the socket's path."""
    socket, pid = path.with_suffix(".sock"), path.with_suffix(".pid")
    command = ["qemu-nbd", "-f", "raw", "-t", "-k", socket, "--pid-file", pid, *options, path]
    with subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL) as server:
        while not (pid.exists() and pid.read_text()):
            assert server.poll() is None
        try:
            yield str(socket)
        finally:
            server.terminate()
            server.wait(TIMEOUT_S)


@pytest.mark.parametrize("size", [0, 512, 3 * MIB])
@pytest.mark.parametrize("image_format", ["raw", "file", "qcow2"])
def test_as_qemu_img_makes_it(
    machine: Machine, tmp_path: Path, image_format: str, size: int
) -> None:
    """Over something longer."""
    (tmp_path / "ours").write_bytes(b"x" * 4 * MIB)
    make(machine, "file:ours", image_format, size)
    qemu_img("create", "-f", image_format, tmp_path / "theirs", size)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_over_a_backing_file_that_is_not_looked_at(machine: Machine, tmp_path: Path) -> None:
    make(machine, "ours", "qcow2", MIB, "nowhere", "raw")
    qemu_img("create", "-u", "-f", "qcow2", "-b", "nowhere", "-F", "raw", tmp_path / "theirs", MIB)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_on_a_server(machine: Machine, tmp_path: Path) -> None:
    """What is there is used as it is, less its first sector."""
    far = tmp_path / "far"
    far.write_bytes(b"x" * 2 * MIB)
    with served(far) as socket:
        make(machine, f"nbd:unix:{socket}", "raw", MIB)
        assert far.read_bytes() == bytes(512) + b"x" * (2 * MIB - 512)
        make(machine, f"nbd+unix://?socket={socket}", "qcow2", 4 * MIB)
    assert far.stat().st_size == 2 * MIB
    check_clean(far)
    assert content(far) == bytes(4 * MIB)


def test_on_a_server_that_is_too_small(machine: Machine, tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.write_bytes(bytes(65536))
    with served(far) as socket:
        name = f"nbd:unix:{socket}"
        assert refused(machine, name, "raw", 65537) == "Cannot grow NBD nodes"
        assert refused(machine, name, "qcow2", MIB) == (
            "Could not write refcount table: Invalid argument"
        )
    assert far.read_bytes() == bytes(65536)


def test_on_a_server_that_does_not_allow_it(machine: Machine, tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.write_bytes(bytes(MIB))
    with served(far, "-r") as socket:
        assert refused(machine, f"nbd:unix:{socket}", "raw", MIB) == (
            "Protocol driver 'nbd' does not support creating new images, so an existing image must"
            " be selected as the target; however, opening the given target as an existing image"
            " failed: Could not open image: Permission denied"
        )


def test_not_over_what_is_in_use(machine: Machine, tmp_path: Path) -> None:
    """By whatever name."""
    create(tmp_path / "image", "1M")
    (tmp_path / "link").symlink_to("image")
    (tmp_path / "other").hardlink_to(tmp_path / "image")
    before = (tmp_path / "image").read_bytes()
    file = {"driver": "file", "filename": "image", "node-name": "n", "read-only": True}
    perform(blockdev_add(machine, parse_blockdev_options(file)))
    for name in ("image", "./image", "link", "other", "file:image"):
        with pytest.raises(QmpError, match='^Failed to get "write" lock$'):
            make(machine, name, "raw", MIB)
    assert (tmp_path / "image").read_bytes() == before


def test_what_is_not_finished_is_deleted(machine: Machine, tmp_path: Path) -> None:
    assert refused(machine, "image", "qcow2", 1 << 60) == (
        "The image size is too large for file format 'qcow2' (try using a larger cluster size)"
    )
    assert not list(tmp_path.iterdir())


def test_no_place_for_it(machine: Machine, tmp_path: Path) -> None:
    """The format is looked at first, then the protocol, then the backing file."""
    backing = ("b", "raw")
    assert refused(machine, "x:y", "nope", 0) == "Unknown file format 'nope'"
    assert refused(machine, "x:y", "null-co", 0) == "Unknown protocol 'x'"
    assert refused(machine, "null-co://", "null-co", 0) == (
        "Format driver 'null-co' does not support image creation"
    )
    assert refused(machine, "null-co://", "raw", 0, *backing) == (
        "Protocol driver 'null-co' does not support image creation"
    )
    assert refused(machine, "a", "raw", 0, *backing) == (
        "Backing file not supported for file format 'raw'"
    )
    assert refused(machine, "b", "qcow2", 0, *backing) == (
        "Error: Trying to create an image with the same filename as the backing file"
    )
    assert refused(machine, "missing/a", "raw", 0) == (
        "Could not create 'missing/a': No such file or directory"
    )
    assert not list(tmp_path.iterdir())
