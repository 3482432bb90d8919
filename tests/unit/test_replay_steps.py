# SPDX-License-Identifier: MIT
"""What a replay does for each line of a recording, and what it compares."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from faultline.ranges import Ranges
from faultline.recording import BadRecording, Recording, invented, parse, placed, unplaced
from faultline.replay_events import EventPool, causes_of
from faultline.replay_report import (
    Divergence,
    Outcome,
    compare_done,
    compare_reply,
    compare_rules,
    missing_event,
    surplus_event,
)
from faultline.replay_steps import (
    attempts_of,
    depth,
    has_times,
    is_timed,
    requests_of,
    steps,
)
from faultline.world import set_file

HEADER: dict[str, Any] = {
    "faultline-recording": 1,
    "directory": "/d",
    "keys": [["drive", "file=a.img"], ["seed", "1"]],
    "drives": [{"id": "a", "driver": "raw"}],
    "files": [{"filename": "a.img", "size": 65536, "contents": []}],
}

CONNECT = {"connect": 1, "drive": "a"}
OPENED = (("connecting", 1), ("connect", 1))
END = {"end": "the machine has ended"}


def request(number: int, iotype: str = "write", offset: int = 0, **more: Any) -> dict[str, Any]:
    made = {"request": number, "connection": 1, "iotype": iotype, "offset": offset}
    return {**made, "length": 0 if iotype == "flush" else 4096, **more}


def recorded(*lines: dict[str, Any], **header: Any) -> Recording:
    texts = [{**HEADER, **header}, *({"ms": 1.0, **line} for line in lines), END]
    return parse("r", [json.dumps(text).encode() + b"\n" for text in texts])


def shown(recording: Recording, until: int | None = None) -> list[tuple[str, Any]]:
    return [(step.kind, step.line.value) for step in steps(recording, until)]


def test_requests_one_after_the_other() -> None:
    recording = recorded(
        CONNECT, request(1), {"done": 1}, request(2, "flush"), {"done": 2}, {"disconnect": 1}
    )
    assert shown(recording) == [
        *(*OPENED, ("request", 1), ("done", 1), ("request", 2), ("done", 2)),
        ("disconnect", 1),
    ]
    assert shown(recording, until=3) == [*OPENED, ("request", 1), ("settle", 1)]


def test_the_next_comes_when_the_one_before_waits() -> None:
    """Request 1 ends after other things have come."""
    recording = recorded(
        CONNECT,
        request(1),
        {"event": "STOP", "data": {}},
        {"command": 1, "client": 1, "execute": "cont"},
        {"done": 1},
        {"reply": 1},
    )
    assert shown(recording) == [
        *(*OPENED, ("request", 1), ("settle", 1), ("event", "STOP")),
        *(("command", 1), ("done", 1), ("reply", 1)),
    ]


def connecting(number: int, **more: Any) -> dict[str, Any]:
    return {"connecting": number, "drive": "a", **more}


def test_attempts_to_connect() -> None:
    """One is refused, one outlasts a command, and one's client goes away meanwhile."""
    command: dict[str, Any] = {"command": 1, "client": 1, "execute": "cont"}
    lines: list[dict[str, Any]] = [
        *(connecting(1), {"refused": 1}, connecting(2), command, {"connect": 2, "drive": "a"}),
        *(connecting(3), {"refused": 3, "gone": True}, connecting(4)),
    ]
    recording = recorded(*lines)
    assert shown(recording) == [
        *(("connecting", 1), ("refused", 1), ("connecting", 2), ("settle", 2), ("command", 1)),
        *(("connect", 2), ("connecting", 3), ("settle", 3), ("hang-up", 3)),
        *(("connecting", 4), ("settle", 4)),
    ]
    assert [str(step.request) for step in steps(recording)][0] == "connection 1 to a"
    with pytest.raises(BadRecording, match="r:2: there is no such attempt"):
        list(steps(recorded({"refused": 1})))


@pytest.mark.parametrize("outcome", [Outcome(), Outcome(111), Outcome(lost=True)])
def test_the_ends_of_attempts(outcome: Outcome) -> None:
    ends: list[dict[str, Any]] = [
        *({"connect": 1, "drive": "a"}, {"refused": 1}, {"refused": 1, "hung-up": True})
    ]
    same = 2 if outcome.lost else 1 if outcome.number else 0
    for kind, end in enumerate(ends):
        recording = recorded(connecting(1), end)
        attempt = attempts_of(recording)[1]
        assert attempt.done is not None
        if kind == same:
            compare_done(attempt.done, attempt, outcome)
        else:
            with pytest.raises(Divergence, match="^line 3: the opening of connection 1 to a: "):
                compare_done(attempt.done, attempt, outcome)


def test_files_that_rules_look_for() -> None:
    """They are so before the request that finds them so, or before what lets it try again."""
    there, gone = ({"file": "/f", "exists": exists} for exists in (True, False))
    lines: list[dict[str, Any]] = [
        *(CONNECT, request(1), {**there, "for-request": 1}, {"event": "STOP", "data": {}}),
        *({"command": 1, "client": 1, "execute": "cont"}, gone, there, {"done": 1}),
        *(connecting(2), {**gone, "for-connecting": 2}, {"refused": 2}, there, request(2)),
        *(request(3, offset=8192), {**gone, "for-request": 3}, {**there, "for-request": 2}),
    ]
    states = [
        step.line.members["exists"] if step.kind == "file" else step.kind
        for step in steps(recorded(*lines))
    ]
    assert states == [
        *("connecting", "connect", True, "request", "settle", "event", False, "command", True),
        *("done", False, "connecting", "refused", True, "request", "settle", False, "request"),
        *("settle", True),
    ]


def test_a_file_is_made_and_removed_below_a_directory(tmp_path: Path) -> None:
    for name in ("/a/b/c", "/../../a/b/c"):
        for exists in (True, True, False, False):
            set_file(str(tmp_path), name, exists)
            assert (tmp_path / "a" / "b" / "c").exists() == exists
    set_file(str(tmp_path), "/a", False)
    assert (tmp_path / "a").is_dir()


def test_what_causes_an_event() -> None:
    """What is under way, and of the event's drive and kind, if that is known."""
    failed = {"event": "BLOCK_IO_ERROR", "data": {"device": "a", "operation": "write"}}
    told = {"event": "X_FAULT_TRIGGERED", "data": {"connection": 2}}
    recording = recorded(
        *(CONNECT, connecting(2), request(1), {"done": 1}, request(2, "read"), request(3)),
        *(failed, told, {"event": "STOP", "data": {}}, {"done": 3}),
    )
    asked = [*attempts_of(recording).values(), *requests_of(recording).values()]
    events = [line for line in recording.lines if line.kind == "event"]
    assert [[str(one) for one in causes_of(event, asked)] for event in events] == [
        ["request 3 (write of 4096 bytes at 0, connection 1)"],
        ["connection 2 to a"],
        [],
    ]


def test_what_was_withdrawn_does_not_come() -> None:
    recording = recorded(CONNECT, request(2), {"withdrawn": 2}, request(1), {"done": 1})
    assert shown(recording) == [*OPENED, ("request", 1), ("done", 1)]


def test_a_client_that_goes_away() -> None:
    recording = recorded(
        CONNECT,
        request(1),
        request(2, offset=8192),
        {"done": 2, "gone": True},
        {"done": 1, "gone": True},
        {"disconnect": 1},
        {"command": 1, "client": 1, "execute": "cont"},
    )
    assert shown(recording) == [
        *(*OPENED, ("request", 1), ("settle", 1), ("request", 2), ("settle", 2)),
        *(("hang-up", 2), ("command", 1)),
    ]


@pytest.mark.parametrize(
    "end",
    [
        {"event": "SHUTDOWN", "data": {}},
        {"command": 1, "client": 1, "execute": "quit"},
        {"end": "No space left on device"},
    ],
)
def test_the_end(end: dict[str, Any]) -> None:
    recording = recorded(CONNECT, request(1), end, {"done": 1, "errno": 108})
    assert shown(recording) == [*OPENED, ("request", 1), ("settle", 1)]


def compares(*lines: dict[str, Any], **header: Any) -> bool:
    """Whether what request 9, a read, has read is compared."""
    return requests_of(recorded(CONNECT, *lines, **header))[9].compares


READ = (request(9, "read"), {"done": 9, "digest": 5})
UNKNOWN = {"files": [{"filename": "a.img", "size": 65536}]}


def test_what_is_compared() -> None:
    write = (request(1), {"done": 1})
    assert compares(*READ)
    assert compares(*write, *READ)
    assert not compares(*READ, **UNKNOWN)
    assert compares(*write, *READ, **UNKNOWN)
    assert not compares(request(1, offset=512), {"done": 1}, *READ, **UNKNOWN)
    assert not compares(*write, *READ, data=False, **UNKNOWN)


def test_what_depends_on_the_order_of_threads_is_not_compared() -> None:
    begin, done = READ
    assert not compares(request(1), begin, {"done": 1}, done)
    assert not compares(begin, request(1), done, {"done": 1})
    assert compares(request(1, offset=4096), begin, {"done": 1}, done)
    assert compares(request(1, "read"), begin, {"done": 1}, done)
    both = (request(1), request(2, offset=512), {"done": 1}, {"done": 2})
    assert not compares(*both, *READ)
    assert compares(*both, request(3), {"done": 3}, *READ)
    assert not compares(*both, request(3, length=512), {"done": 3}, *READ)
    again = (request(3, length=8192), {"done": 3})
    assert compares(*both, *again, *READ)


def test_what_a_write_has_left_that_nobody_knows() -> None:
    fail = {"done": 1, "errno": 5}
    assert not compares(request(1), fail, *READ)
    assert compares(request(1), {**fail, "rules": ["r"]}, *READ)
    assert not compares(request(1), {"done": 1, "rules": ["r"]}, *READ, **UNKNOWN)
    assert not compares(request(1), {"done": 1, "gone": True}, *READ)
    assert not compares(request(1, "discard"), {"done": 1}, *READ)


def test_bad_lines() -> None:
    for line, message in (
        ({"done": 7}, "there is no such request or connection"),
        (request(1, connection=2), "this is no request of a guest"),
        ({"request": 1, "connection": 1}, "this is no request of a guest"),
    ):
        with pytest.raises(BadRecording, match=f"r:3: {message}"):
            list(steps(recorded(CONNECT, line)))
    for text in (b"{\n", b"[]\n", b'{"done":"x"}\n'):
        with pytest.raises(BadRecording, match="r:2: this is no line of a recording"):
            parse("r", [json.dumps(HEADER).encode() + b"\n", text])


def test_lines_that_are_not_known() -> None:
    recording = recorded(CONNECT, {"news": 1})
    assert shown(recording) == [*OPENED]


def test_depth() -> None:
    recording = recorded(
        CONNECT, request(1), request(2, "read"), {"done": 1}, request(3), {"done": 2}
    )
    assert depth(requests_of(recording).values()) == 2
    assert depth(()) == 0


def test_times() -> None:
    timed = {"command": 1, "client": 1, "execute": "x-fault-add", "arguments": {"up-ms": 5}}
    assert is_timed(recorded(timed))
    assert has_times(recorded(timed).lines[0])
    assert not has_times(recorded(CONNECT).lines[0])
    assert is_timed(recorded(keys=[["fault", "a,not-before-ms=5"]]))
    assert is_timed(recorded(keys=[["drive", "id=a,werror=retry"]]))
    assert not is_timed(recorded(CONNECT))


def test_outcomes() -> None:
    recording = recorded(CONNECT, *READ, request(1), {"done": 1, "errno": 108, "rules": ["r"]})
    requests = requests_of(recording)
    read, hung_up = requests[9], requests[1]
    assert read.done is not None and hung_up.done is not None
    compare_done(read.done, read, Outcome(digest=5))
    for outcome in (Outcome(digest=6), Outcome(5), Outcome(lost=True)):
        with pytest.raises(Divergence, match=r"line 4: .*read of 4096 bytes at 0, connection 1"):
            compare_done(read.done, read, outcome)
    read.compares = False
    compare_done(read.done, read, Outcome(digest=6))
    compare_done(hung_up.done, hung_up, Outcome(lost=True))


def test_rules() -> None:
    """Of a drop or a delay nothing else tells."""
    hit = {"done": 1, "rules": ["drop"]}
    first = requests_of(recorded(CONNECT, request(1), hit, *READ)).values()
    assert compare_rules(first, first, None)
    later = requests_of(recorded(CONNECT, request(5), {**hit, "done": 5}, request(6))).values()
    assert not compare_rules(first, later, None)
    assert compare_rules(first, later, 4)
    other = requests_of(recorded(CONNECT, request(1), {"done": 1}, *READ)).values()
    told = r"line 4: the rules that have hit request 1 \(.*\): recorded drop, replayed none"
    with pytest.raises(Divergence, match=told):
        compare_rules(first, other, None)
    assert compare_rules(first, other, 3)


def test_replies() -> None:
    line = recorded({"reply": 1, "error": "no"}).lines[0]
    compare_reply(line, "stop", "no")
    for error in (None, "yes"):
        with pytest.raises(Divergence, match="line 2: the reply to stop: recorded no, replayed"):
            compare_reply(line, "stop", error)


def test_events() -> None:
    pool = EventPool()
    data = {"device": "j", "offset": 1, "len": 2}
    pool.add("BLOCK_JOB_READY", data)
    pool.add("RESUME", {})
    line = recorded({"event": "BLOCK_JOB_READY", "data": {"device": "k"}}).lines[0]
    assert not pool.take("BLOCK_JOB_READY", {"device": "k"})
    told = str(missing_event(line, pool, 3))
    assert 'recorded BLOCK_JOB_READY {"device": "k"}, replayed BLOCK_JOB_READY {"device": "j"}' in (
        told
    )
    assert pool.take("BLOCK_JOB_READY", {**data, "offset": 7})  # how fast a job was
    assert "nothing like it within 3 s" in str(missing_event(line, pool, 3))
    with pytest.raises(Divergence, match="line 9: .* recorded no others, replayed RESUME"):
        surplus_event(9, pool)
    assert pool.take("RESUME", None)
    surplus_event(9, pool)


def test_an_event_that_is_not_recorded_is_told_from_those_to_come() -> None:
    lines = recorded(*({"event": "STOP", "data": {"n": n}} for n in (1, 2, 2))).lines
    pool = EventPool(lines)
    for n in (2, 2):
        pool.add("STOP", {"n": n})
    assert pool.stray("STOP") is None
    pool.add("STOP", {"n": 2})
    assert pool.stray("STOP") == {"n": 2}
    assert pool.take("STOP", {"n": 2})
    assert pool.stray("STOP") == {"n": 2}
    pool = EventPool(lines)
    for n in (2, 3):
        pool.add("STOP", {"n": n})
    assert (pool.stray("STOP"), pool.stray("RESUME")) == ({"n": 3}, None)
    assert "replayed STOP {\"n\": 3}" in str(missing_event(lines[0], pool, 3))


def test_places() -> None:
    texts = [
        ("file=/a/b.img,id=x", "file=/r/a/b.img,id=x"),
        ('{"filename": "/a"}', '{"filename": "/r/a"}'),
        ("file=blkdebug:/c.conf:/a.img", "file=blkdebug:/r/c.conf:/r/a.img"),
        ("/a:/b", "/r/a:/r/b"),
        ("file=a/b.img", "file=a/b.img"),
        ("nbd://host/a", "nbd://host/a"),
        ("/machine/peripheral/a", "/machine/peripheral/a"),
    ]
    for text, below in texts:
        assert placed(text, "/r") == below
        assert unplaced(below, "/r") == text
    assert placed({"a": ["/b", 1]}, "/r") == {"a": ["/r/b", 1]}


def test_invented_contents() -> None:
    assert invented(3, 5000) == invented(3, 5000) != invented(4, 5000)
    assert [len(invented(3, length)) for length in (0, 1, 512, 4097)] == [0, 1, 512, 4097]


@pytest.mark.parametrize("seed", range(20))
def test_ranges(seed: int) -> None:
    dice, ranges, model = random.Random(seed), Ranges(), set[int]()
    for _ in range(200):
        start = dice.randrange(40)
        end = start + dice.randrange(12)
        numbers = set(range(start, end))
        if dice.random() < 0.5:
            ranges.add(start, end)
            model |= numbers
        else:
            ranges.remove(start, end)
            model -= numbers
        for at in range(0, 50, 3):
            for length in (0, 1, 4):
                touched = bool(model & set(range(at, at + length)))
                assert ranges.touches(at, at + length) == touched
