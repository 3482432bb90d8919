# SPDX-License-Identifier: MIT
"""Who reads what a server sends to the client library: those that wait, or a thread."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from faultline.aio.channel import Channel as AsyncChannel
from faultline.errors import MachineEnded, TimedOut
from faultline.events import Pattern, Wanted
from faultline.sync.channel import PIECE, Channel

LIMIT_S = 60.0


class Server:
    """A control socket that says what it is told to."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def greet(self) -> None:
        """Take a connection and negotiate (the body of a thread)."""
        self._connection, _ = self._listener.accept()
        self._connection.settimeout(LIMIT_S)
        self.say({"QMP": {}})
        self.say({"return": {}, "id": json.loads(self._connection.recv(1000))["id"]})

    def say(self, *messages: dict[str, Any]) -> None:
        self._connection.sendall(b"".join(json.dumps(each).encode() + b"\n" for each in messages))

    def happen(self, name: str, count: int = 1) -> None:
        stamp = {"seconds": 1, "microseconds": 0}
        self.say(*({"timestamp": stamp, "event": name, "data": {"n": n}} for n in range(count)))

    def hang_up(self) -> None:
        self._connection.close()

    def close(self) -> None:
        self.hang_up()
        self._listener.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "s")
    yield made
    made.close()


@pytest.fixture
def channel(server: Server, tmp_path: Path) -> Iterator[Channel]:
    greeting = threading.Thread(target=server.greet)
    greeting.start()
    made = Channel.open(tmp_path / "s", LIMIT_S)
    greeting.join()
    yield made
    made.close()


def wait_for(channel: Channel, name: str, timeout: float = LIMIT_S) -> str:
    wanted = Wanted(channel.journal, [Pattern.of(name)])
    (event,) = channel.wait(wanted.look, timeout, wanted.missing)
    return event.name


def beside(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_the_server_never_waits_for_a_client_that_does_not(
    server: Server, channel: Channel
) -> None:
    """Nobody calls anything while 2 MB come, of which the socket itself takes 0.2."""
    server.happen("STOP", 20_000)
    server.happen("RESUME")
    assert wait_for(channel, "RESUME") == "RESUME"
    assert channel.journal.count == 20_001


def test_what_has_arrived_is_there_at_once(server: Server, channel: Channel) -> None:
    """A piece is a part of it."""
    many = PIECE // 50
    server.happen("STOP", many)
    assert channel.journal.count == many
    server.happen("RESUME")
    assert wait_for(channel, "RESUME", 0) == "RESUME"
    with pytest.raises(TimedOut, match="RESUME"):
        wait_for(channel, "RESUME", 0)


def test_many_wait_at_once_and_each_gets_its_own(server: Server, channel: Channel) -> None:
    names = [f"E{number}" for number in range(8)]
    got: list[str] = []
    waiting = [beside(partial(lambda name: got.append(wait_for(channel, name)), n)) for n in names]
    for name in reversed(names):
        server.happen(name)
    for thread in waiting:
        thread.join(LIMIT_S)
    assert sorted(got) == names


def test_one_that_gives_up_leaves_the_reading_to_another(
    server: Server, channel: Channel
) -> None:
    got: list[str] = []
    waiting = beside(lambda: got.append(wait_for(channel, "STOP")))
    for _ in range(20):
        with pytest.raises(TimedOut):
            wait_for(channel, "NEVER", 0.001)
    server.happen("STOP")
    waiting.join(LIMIT_S)
    assert got == ["STOP"]


@pytest.mark.parametrize("who", ["server", "client"])
def test_all_that_wait_are_told_of_the_end(who: str, server: Server, channel: Channel) -> None:
    told: list[str] = []

    def wait() -> None:
        with pytest.raises(MachineEnded) as ended:
            wait_for(channel, "STOP")
        told.append(str(ended.value))

    waiting = [beside(wait) for _ in range(3)]
    server.happen("RESUME")
    wait_for(channel, "RESUME")
    server.hang_up() if who == "server" else channel.close()
    for thread in waiting:
        thread.join(LIMIT_S)
    assert len(told) == 3 and len(set(told)) == 1


def test_a_server_that_takes_no_commands_keeps_nobody(server: Server, channel: Channel) -> None:
    with pytest.raises(TimedOut, match=r"^no reply to x within 0\.01 s$"):
        channel.execute("x", {"long": "x" * (16 << 20)}, 0.01)
    with pytest.raises(MachineEnded, match="the machine takes no more commands"):
        channel.execute("x", {}, LIMIT_S)


def test_a_server_that_takes_no_commands_keeps_no_task(server: Server, tmp_path: Path) -> None:
    async def run() -> None:
        greeting = threading.Thread(target=server.greet)
        greeting.start()
        channel = await AsyncChannel.open(tmp_path / "s", LIMIT_S)
        greeting.join()
        with pytest.raises(TimedOut, match=r"^no reply to x within 0\.01 s$"):
            await channel.execute("x", {"long": "x" * (16 << 20)}, 0.01)
        server.hang_up()
        await channel.close()

    asyncio.run(run())
