# SPDX-License-Identifier: MIT
"""A control client in this process, with commands that fail as none should."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest

from blockcore.bql.big_lock import BigLock
from blockcore.bql.clock import SystemClock
from blockcore.bql.effects import Until
from blockcore.bql.routine import Pool
from blockcore.commands import by_name
from blockcore.machine.machine import Machine
from blockcore.process import control
from blockcore.process.control import Client
from blockcore.qapi.qemu import LATEST
from blockcore.qapi.schema import Command, CommandTable
from told import capture_logs


class Transport(asyncio.Transport):
    """Takes everything; `closed` says whether the client was hung up on."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.data += data

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    abort = close

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.data.splitlines()]


def deep(value: int) -> int:
    return deep(value + 1)


def _assert() -> None:
    raise AssertionError


broken = CommandTable()
FAULTS: dict[str, Callable[[], Any]] = {
    "ValueError": lambda: int("x"),
    "RecursionError": lambda: deep(0),
    "OverflowError": lambda: (1 << 200).to_bytes(4, "big"),
    "UnicodeEncodeError": lambda: "\udc80".encode(),
    "KeyError": lambda: dict[str, str]()["x"],
    "AssertionError": _assert,
    "OSError": lambda: open("/nonexistent/file"),  # noqa: SIM115  # is not opened
    "MemoryError": lambda: bytes(1 << 62),
}


@broken.command("x-fail")
def x_fail(machine: Machine, *, how: str) -> None:
    FAULTS[how]()


@broken.command("x-fail-later")
async def x_fail_later(machine: Machine, *, how: str) -> None:
    await Until(lambda: True)
    FAULTS[how]()


@broken.command("x-unwritable")
def x_unwritable(machine: Machine, *, how: str) -> Any:
    return SimpleNamespace()


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> dict[str, Command]:
    for name in broken.commands:
        monkeypatch.setitem(by_name._PART_OF, name, lambda: broken)
    return broken.commands


def ignore(client: Client) -> None:
    """Nobody keeps account of connections."""


def feed(client: Client, data: bytes) -> None:
    """Let the client have sent `data`, as the transport tells it."""
    client.get_buffer(len(data))[: len(data)] = data
    client.buffer_updated(len(data))


def machine_of_nothing() -> Machine:
    """What a conversation needs of a machine."""
    nothing = SimpleNamespace(qemu=LATEST, quit_requested=False, name="m", recording=None)
    return cast(Machine, nothing)


async def answers(*requests: dict[str, Any]) -> Transport:
    """What a client is told that sends `requests`."""
    lock = BigLock(SystemClock())
    lock.pool = cast(Pool, None)
    client = Client(machine_of_nothing(), lock, set(), ignore, ignore, lambda: None)
    transport = Transport()
    client.connection_made(transport)
    feed(client, b'{"execute":"qmp_capabilities"}')
    for request in requests:
        feed(client, json.dumps(request).encode())
    while not transport.closed and len(transport.messages()) < 2 + len(requests):
        await asyncio.sleep(0)
    return transport


@pytest.mark.parametrize("how", FAULTS)
@pytest.mark.parametrize("name", broken.commands)
def test_a_bug_is_an_error_reply_and_a_log_line(
    name: str, how: str, commands: dict[str, Command]
) -> None:
    with capture_logs() as logs:
        transport = asyncio.run(
            answers(
                {"execute": name, "arguments": {"how": how}, "id": "i"},
                {"execute": "query-name", "id": 2},
            )
        )
    assert not transport.closed
    _, _, failed, after = transport.messages()
    assert failed["id"] == "i" and failed["error"]["class"] == "GenericError"
    expected = "TypeError" if name == "x-unwritable" else how
    assert "by a bug of ours: " in failed["error"]["desc"]
    assert after == {"return": {"name": "m"}, "id": 2}
    (told,) = [entry for entry in logs if entry["level"] == "error"]
    raised = told["trace"].splitlines()[-1].partition(":")[0]
    assert raised in (expected, "FileNotFoundError")
    assert "Traceback" in told["trace"]


def test_the_trace_is_logged_where_traceback_is_patched(
    monkeypatch: pytest.MonkeyPatch, commands: dict[str, Command]
) -> None:
    """As `plugin/survive.py` does it in the real process."""
    monkeypatch.setattr(traceback, "format_exception", lambda cls, error, trace: ["no"])
    with capture_logs() as logs:
        transport = asyncio.run(answers({"execute": "x-fail", "arguments": {"how": "ValueError"}}))
    assert "by a bug of ours" in transport.messages()[-1]["error"]["desc"]
    assert "ValueError: invalid literal" in logs[0]["trace"]


def test_a_bug_in_the_check_of_arguments(
    monkeypatch: pytest.MonkeyPatch, commands: dict[str, Command]
) -> None:
    bind = Command.bind

    def fail(command: Command, *args: Any, **kwargs: Any) -> Any:
        if command.name == "x-fail":
            raise OverflowError("too much")
        return bind(command, *args, **kwargs)

    monkeypatch.setattr(Command, "bind", fail)
    with capture_logs() as logs:
        transport = asyncio.run(answers({"execute": "x-fail", "id": 1}))
    assert not transport.closed
    assert transport.messages()[-1]["id"] == 1
    assert "OverflowError: too much" in transport.messages()[-1]["error"]["desc"]
    assert logs


def test_others_have_the_interpreter_between_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that keeps the loop busy leaves a pause after each turn."""
    happened: list[str] = []
    pausing = SimpleNamespace(sleep=lambda seconds: happened.append("pause"))
    monkeypatch.setattr(control, "time", pausing)
    step = Client._step

    def noted_step(client: Client) -> None:
        happened.append("step")
        step(client)
        end = time.monotonic() + control.TURN_S
        while time.monotonic() < end:
            pass

    monkeypatch.setattr(Client, "_step", noted_step)

    async def flood() -> None:
        lock = BigLock(SystemClock())
        client = Client(machine_of_nothing(), lock, set(), ignore, ignore, lambda: None)
        transport = Transport()
        client.connection_made(transport)
        feed(client, b'{"execute":"qmp_capabilities"}' + b'{"execute":"query-name"}' * 5)
        while len(transport.messages()) < 7:
            await asyncio.sleep(0)

    asyncio.run(flood())
    assert "pause" in happened
    assert not any(pair == ("step", "step") for pair in pairwise(happened))
