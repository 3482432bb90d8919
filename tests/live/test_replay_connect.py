# SPDX-License-Identifier: MIT
"""Attempts to connect that rules refuse, hold up or cut off are recorded and made again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from blockcore.cli import main
from faultline.errors import MachineEnded
from faultline.recording import parse
from faultline.replay_report import Divergence
from faultline.replay_steps import OPENING
from faultline.sync.guest import Guest
from faultline.sync.replay import Replay
from live import FAULTLINE, TIMEOUT_S, Live, Qmp

Line = dict[str, Any]


class Session:
    """A machine that is recorded: a client, and guests that connect."""

    def __init__(self, live: Live, qmp: Qmp) -> None:
        self.live = live
        self.qmp = qmp

    def rule(self, **members: Any) -> None:
        self.qmp("x-fault-add", node_name="vda", iotype="connect", id="x", **members)

    def attempt(self) -> Guest:
        """Begin to connect."""
        guest = Guest(self.live.uri())
        guest.connect()
        return guest

    def connects(self) -> bool:
        """Connect, read and go, if it comes to that."""
        guest = self.attempt()
        assert guest.wait(OPENING, TIMEOUT_S)
        if guest.take(OPENING).number or guest._is_lost():
            guest.hang_up()
            return False
        guest.leave(TIMEOUT_S)
        return True

    def under_way(self, guest: Guest, count: int = 1) -> None:
        """Wait until `count` attempts hang."""

        def hang() -> bool:
            guest.turn()
            return len(self.qmp("x-query-requests")) == count

        self.qmp.wait_for(hang)


def hang_and_release(session: Session) -> None:
    session.rule(action="hang")
    guest = session.attempt()
    session.under_way(guest)
    session.qmp("x-fault-release", id="x")
    assert guest.wait(OPENING, TIMEOUT_S)
    session.qmp("x-fault-clear")
    guest.leave(TIMEOUT_S)


def hang_beside_others(session: Session) -> None:
    """Two hang, a third connects by another drive, and the first one's guest gives up."""
    session.rule(action="hang")
    first = session.attempt()
    session.under_way(first)
    second = session.attempt()
    session.under_way(second, 2)
    with session.live.guest("vdb") as other:
        other.pread(512, 0)
        first.hang_up()
        session.qmp.wait_for(lambda: len(session.qmp("x-query-requests")) == 1)
        other.pread(512, 512)
    session.qmp("x-fault-clear")
    assert second.wait(OPENING, TIMEOUT_S)
    second.leave(TIMEOUT_S)


def refused_once(session: Session) -> None:
    session.rule(count=1, notify=True)
    assert [session.connects() for _ in range(2)] == [False, True]


def refused_quietly(session: Session) -> None:
    session.rule(count=1)
    assert [session.connects() for _ in range(2)] == [False, True]


def hung_up_once(session: Session) -> None:
    session.rule(action="disconnect", count=1)
    assert [session.connects() for _ in range(2)] == [False, True]


def refused_by_chance(session: Session) -> None:
    session.rule(rate=0.5)
    assert len({session.connects() for _ in range(20)}) == 2


def delayed(session: Session) -> None:
    session.rule(action="delay", delay_ms=30, count=2)
    assert [session.connects() for _ in range(3)] == [True] * 3


def refused_by_number(session: Session) -> None:
    session.rule(connection=3)
    assert [session.connects() for _ in range(3)] == [True, True, False]


def recorded(directory: Path, play: Callable[[Session], None]) -> list[Line]:
    keys = ("drive=id=vda,driver=null-co", "drive=id=vdb,driver=null-co", "record=run.jsonl")
    with Live(directory, *keys, "seed=7") as live:
        with live.qmp() as qmp:
            play(Session(live, qmp))
    return [json.loads(line) for line in (directory / "run.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "play",
    [
        *(hang_and_release, hang_beside_others, refused_once, hung_up_once, refused_by_chance),
        *(delayed, refused_by_number),
    ],
    ids=lambda play: play.__name__,
)
def test_attempts_repeat(
    play: Callable[[Session], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = recorded(tmp_path, play)
    begun = [line["connecting"] for line in lines if "connecting" in line]
    assert begun == [*range(1, len(begun) + 1)]
    ended = [line.get("refused") or line.get("connect") for line in lines]
    assert sorted(filter(None, ended)) == begun
    assert any(line.get("rules") for line in lines if line.keys() & {"connect", "refused"})
    status = main(["replay", str(tmp_path / "run.jsonl")])
    out, err = capsys.readouterr()
    assert re.fullmatch(r"\S+: \d+ lines, no divergence\n", out + err), out + err
    assert status == 0


def without_attempts(lines: list[Line], path: Path) -> None:
    """Write a recording as releases did that recorded connections only."""
    kept = [line for line in lines if not line.keys() & {"connecting", "refused"}]
    for line in kept:
        if "connect" in line:
            line.pop("rules", None)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in kept))


def test_another_outcome(tmp_path: Path) -> None:
    lines = recorded(tmp_path, refused_quietly)
    was = next(n for n, line in enumerate(lines) if "refused" in line)
    for kind, side in (("connect", "a connection"), ("hung-up", "the server has hung up")):
        changed = [dict(line) for line in lines]
        changed[was]["hung-up"] = True
        if kind == "connect":
            changed[was] = {"ms": 1, "connect": 1, "drive": "vda"}
        told = replayed(changed)
        assert (told.line, told.recorded, told.replayed) == (was + 1, side, "a refusal")
    path = tmp_path / "old.jsonl"
    without_attempts(lines, path)
    told = replayed([json.loads(line) for line in path.read_text().splitlines()])
    assert (told.what, told.recorded) == ("the opening of connection 2 to vda", "a connection")


def replayed(lines: list[Line]) -> Divergence:
    """The difference that a replay of these lines finds."""
    text = [json.dumps(line).encode() + b"\n" for line in lines]
    player = Replay(parse("r", text))
    try:
        with pytest.raises(Divergence) as caught:
            player.run()
    finally:
        player.close()
    return caught.value


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_replay_whose_guest_hangs_is_ended(how: signal.Signals, tmp_path: Path) -> None:
    """It connects after what should have released it, and has a long time for that."""
    (tmp_path / "first").mkdir()
    (tmp_path / "t").mkdir()
    path = tmp_path / "old.jsonl"
    without_attempts(recorded(tmp_path / "first", hang_and_release), path)
    with subprocess.Popen(
        [*FAULTLINE, "replay", str(path)],
        env={**os.environ, "TMPDIR": f"{tmp_path}/t", "XDG_RUNTIME_DIR": f"{tmp_path}/t"},
    ) as replay, ExitStack() as stack:
        stack.callback(replay.kill)
        while not any('"connecting"' in file.read_text() for file in tmp_path.glob(
            "t/faultline-replay-*/replayed.jsonl"
        )):
            assert replay.poll() is None
        replay.send_signal(how)
        assert replay.wait(TIMEOUT_S) == (130 if how == signal.SIGINT else -how)
    assert list((tmp_path / "t").iterdir()) == []


def test_no_server() -> None:
    guest = Guest("nbd+unix:///vda?socket=/nowhere/nbd")
    try:
        guest.connect()
    except MachineEnded:
        return
    assert guest.wait(OPENING, TIMEOUT_S)
    assert guest.take(OPENING).lost


def test_a_server_that_leaves_a_guest_waiting(tmp_path: Path) -> None:
    """A guest that says goodbye gives up after its time, and hangs up."""
    with Live(tmp_path, "drive=id=vda,driver=null-co") as live, live.qmp() as qmp:
        qmp("x-fault-add", node_name="vda", action="hang")
        guest = Guest(live.uri())
        guest.connect()
        assert guest.wait(OPENING, TIMEOUT_S)
        guest.take(OPENING)
        buffer = bytearray(512)
        guest._handle.aio_pread(buffer, 0)
        qmp.wait_for(lambda: not guest.outcomes() and qmp("x-query-requests"))
        guest.leave(0.01)
        assert not guest.open_requests()
