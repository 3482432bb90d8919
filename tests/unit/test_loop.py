# SPDX-License-Identifier: MIT
"""The end of the main loop: what comes before clients are disconnected, and what is raised."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockcore.bql.big_lock import BigLock
from blockcore.bql.clock import SystemClock
from blockcore.machine.machine import Machine
from blockcore.process.control import bind_control_socket
from blockcore.process.loop import MainLoop

TIMEOUT_S = 60.0


@pytest.fixture(name="client")
def _client(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT_S)
        yield client


@pytest.fixture(name="loop")
def _loop(tmp_path: Path, client: socket.socket) -> MainLoop:
    """A loop with one client, and a machine that is ending."""
    lock = BigLock(SystemClock())
    machine = Machine(SystemClock(), lambda: 0.5, region=lock.region, directory="/")
    control = str(tmp_path / "control")
    loop = MainLoop(
        machine, lock, bind_control_socket(control), on_quit=lambda: None, trim=lambda: None
    )
    loop.start()
    client.connect(control)
    assert client.recv(1 << 16).startswith(b'{"QMP"')
    lock.close()
    return loop


def test_clients_are_disconnected_last(loop: MainLoop, client: socket.socket) -> None:
    """Whoever waits for the end of a connection may open the images then."""
    seen: list[str] = []

    def close_images() -> None:
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        client.settimeout(TIMEOUT_S)
        seen.append("still connected")

    loop.stop(close_images)
    assert seen == ["still connected"] and client.recv(1) == b""


def test_what_comes_last_may_fail(loop: MainLoop, client: socket.socket) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop.stop(fail)
    assert client.recv(1) == b""
