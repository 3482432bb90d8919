# SPDX-License-Identifier: MIT
"""What a guest has sent before a power cut, and nbdkit delivers after it, is not carried out."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from blockcore.process.connection import Connection
from blockcore.process.server import Server
from blockcore.qapi.errnos import HungUp
from sim import execute, shortcut

BLOCK = 4096


class Drive:
    """A server with one drive, as after get_ready, without nbdkit."""

    def __init__(self, directory: Path, *more: str) -> None:
        self.image = directory / "disk.raw"
        self.image.write_bytes(bytes(4 * BLOCK))
        self.server = Server({}, str(directory))
        self.server.config("drive", ",".join(("file=disk.raw,format=raw,id=vda", *more)))
        self.server.config_complete()
        self.server.get_ready()
        self.machine = self.server.machine
        self.blk = self.machine.backends[0]

    def run(self, name: str, **arguments: Any) -> None:
        self.server.lock.run_in_thread(execute(self.machine, name, **arguments), lambda: True)

    def write(self, connection: Connection, byte: bytes) -> None:
        """Write a block, and flush it, as the plugin does: the long way if need be."""
        data = memoryview(byte * BLOCK)
        tried = connection.shortcut_pwrite(connection.opener_slot(), 0, data)
        if tried is not True:
            self._long_way(connection, self.blk.pwrite(0, data, tried=tried))
        self._long_way(connection, self.blk.flush())

    def _long_way(self, connection: Connection, request: Coroutine[Any, Any, None]) -> None:
        self.server.lock.run_in_thread(request, lambda: True, connection.number)

    def contents(self) -> bytes:
        return self.image.read_bytes()[:1]


@pytest.fixture(params=["", "cache.x-volatile=on"], ids=["plain", "volatile"])
def drive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Drive]:
    made = Drive(tmp_path, *([request.param] if request.param else []))
    yield made
    for node in list(made.machine.graph.nodes.values()):
        made.server.lock.run_in_thread(node.do_close(), lambda: True)


def test_what_comes_later_from_before(drive: Drive) -> None:
    before = drive.server.exports.connect("vda", False)
    drive.write(before, b"a")
    assert drive.contents() == b"a"
    has_shortcut = drive.blk.shortcut is not None
    drive.run("x-power-cut")
    drive.run("cont")
    after = drive.server.exports.connect("vda", False)
    drive.write(after, b"b")
    with pytest.raises(HungUp):
        drive.write(before, b"c")
    assert drive.contents() == b"b"
    drive.blk.disconnected(before.number)
    drive.write(after, b"d")
    assert drive.contents() == b"d"
    assert (shortcut(drive.blk) is not None) == has_shortcut == (not drive.blk.root.is_volatile)
