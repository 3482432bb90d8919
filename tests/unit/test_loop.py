# SPDX-License-Identifier: MIT
"""The end of the main loop: what comes before clients are disconnected, and what is raised."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockcore.bql.big_lock import BigLock
from blockcore.bql.clock import SystemClock
from blockcore.bql.effects import Lane
from blockcore.machine.machine import Machine
from blockcore.process.control import bind_control_socket
from blockcore.process.loop import MainLoop
from blockcore.qmp.session import Invocation, Session

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
    machine = Machine(SystemClock(), 0, region=lock.region, directory="/")
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


def test_no_command_runs_any_more(
    loop: MainLoop, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever has been sent by then: it would find closed images, or open others."""
    ran: list[object] = []
    real = Session.next_command

    def next_command(session: Session) -> Invocation | None:
        ran.append(found := real(session))
        return found

    monkeypatch.setattr(Session, "next_command", next_command)
    client.sendall(b'{"execute":"qmp_capabilities"}' + b'{"execute":"query-status"}' * 5000)
    assert client.recv(1 << 16)
    at_last: list[int] = []
    loop.stop(lambda: at_last.append(len(ran)))
    assert at_last == [len(ran)] and len(ran) < 5000


def test_calls_that_wait_are_dropped(loop: MainLoop) -> None:
    """They would use what `last` has closed."""
    lane, done = Lane("a lane", 1), list[str]()
    began, go, ended = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        began.set()
        assert go.wait(TIMEOUT_S)
        done.append("first")
        ended.set()

    loop.submit(first, lane)
    assert began.wait(TIMEOUT_S)
    loop.submit(lambda: done.append("second"), lane)
    loop.stop(go.set)
    loop.submit(lambda: done.append("third"), lane)
    assert ended.wait(TIMEOUT_S)
    for thread in threading.enumerate():
        if thread.name == lane.name:
            thread.join(TIMEOUT_S)
    assert done == ["first"]


def test_what_comes_last_may_fail(loop: MainLoop, client: socket.socket) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop.stop(fail)
    assert client.recv(1) == b""
