# SPDX-License-Identifier: MIT
from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import pytest

from blockcore.qapi.introspect import schema_info
from blockcore.qapi.json.stream import JsonStream, Limits
from blockcore.qapi.json.writer import encode
from blockcore.qapi.names import QapiErrorClass, QmpError
from blockcore.qapi.schema import CommandTable
from blockcore.qmp.session import NEGOTIATION, Invocation, Session
from tree import RECORDINGS

RECORDING = RECORDINGS["7.2"] / "qmp-protocol.jsonl"
NEGOTIATE = b'{"execute": "qmp_capabilities"}'

table = CommandTable()
table.include(NEGOTIATION)


class ShutdownAction(StrEnum):
    POWEROFF = "poweroff"
    PAUSE = "pause"


class RebootAction(StrEnum):
    RESET = "reset"
    SHUTDOWN = "shutdown"


@table.command("query-status")
def query_status(session: Session) -> Any:
    return {"status": "running", "singlestep": False, "running": True}


@table.command("query-block-jobs")
def query_block_jobs(session: Session) -> list[str]:
    return []


@table.command("block_resize")
def block_resize(
    session: Session, *, device: str | None = None, node_name: str | None = None, size: int
) -> None:
    raise QmpError(f"Cannot find device='{device or ''}' nor node-name='{node_name or ''}'")


@table.command("set-action")
def set_action(
    session: Session, *, reboot: RebootAction | None = None, shutdown: ShutdownAction | None = None
) -> None:
    pass


@table.command("query-yank", allow_oob=True)
def query_yank(session: Session) -> list[str]:
    return []


@table.command("stop")
def stop(session: Session) -> None:
    session.send_event({"event": "STOP"})


@table.command("cont")
def cont(session: Session) -> None:
    session.send_event({"event": "RESUME"})


@table.command("quit")
def quit_(session: Session) -> None:
    data = {"guest": False, "reason": "host-qmp-quit"}
    session.send_event({"event": "SHUTDOWN", "data": data})


def new_session(limits: Limits | None = None) -> Session:
    return Session(table.commands.get, {"package": "faultline"}, limits)


def run(session: Session, data: bytes) -> list[dict[str, Any]]:
    """Give `data` to the session and run what comes of it, as a host does."""
    session.receive_data(data)
    while session.may_be_command():
        invocation = session.next_command()
        if invocation is None:
            continue
        try:
            result = invocation.command.function(session, **invocation.kwargs)
        except QmpError as error:
            session.fail(invocation, error)
        else:
            session.reply(invocation, result)
    return sent(session)


def sent(session: Session) -> list[dict[str, Any]]:
    """What is in the outbox, as a client sees it."""
    return [json.loads(encode(message)) for message in iter(session.take_message, None)]


def negotiated() -> Session:
    session = new_session()
    assert run(session, NEGOTIATE) == [{"return": {}}]
    return session


def out_of_band() -> Session:
    session = new_session()
    run(session, b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}')
    return session


def errors(messages: list[dict[str, Any]]) -> list[str]:
    return [message["error"]["desc"] for message in messages]


def recorded() -> Iterator[tuple[bytes, list[dict[str, Any]]]]:
    """What the client sent in one piece, and what QEMU answered before the next piece."""
    sent = None
    answers: list[dict[str, Any]] = []
    for line in RECORDING.read_text().splitlines():
        entry = json.loads(line)
        if entry.get("dir") == "C>S":
            if sent is not None:
                yield sent, answers
            raw = entry["data"].encode("latin-1") if "data" in entry else b""
            sent, answers = raw or json.dumps(entry["msg"]).encode(), []
        elif "msg" in entry and entry["kind"] != "greeting":
            answers.append({k: v for k, v in entry["msg"].items() if k != "timestamp"})
    assert sent is not None
    yield sent, answers


@pytest.mark.parametrize("size", [1, 3, 1 << 20], ids=["bytewise", "by threes", "whole"])
def test_recorded_conversation(size: int) -> None:
    """All of it but the commands that need nodes."""
    session = new_session()
    replayed = 0
    for sent, answers in recorded():
        if b"blockdev-" in sent:
            continue
        pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
        got = [message for piece in pieces for message in run(session, piece)]
        assert got == answers, sent
        replayed += 1
    assert replayed == 43


def test_greeting_offers_out_of_band_execution() -> None:
    greeting = new_session().greeting()
    assert greeting == {"QMP": {"version": {"package": "faultline"}, "capabilities": ["oob"]}}


@pytest.mark.parametrize(
    ("request_", "desc"),
    [
        ("{}", "QMP input lacks member 'execute'"),
        ('{"id":1,"arguments":{}}', "QMP input lacks member 'execute'"),
        ('{"id":1,"arguments":[]}', "QMP input member 'arguments' must be an object"),
        ('{"arguments":[],"execute":1}', "QMP input member 'execute' must be a string"),
        ('{"execute":"stop","arguments":null}', "QMP input member 'arguments' must be an object"),
        ('{"execute":"nope","arguments":[]}', "QMP input member 'arguments' must be an object"),
        ('{"execute":"nope","arguments":{"q":1}}', "The command nope has not been found"),
        ('{"execute":""}', "The command  has not been found"),
        ('{"execute":"stop","control":1}', "QMP input member 'control' is unexpected"),
        ('{"execute":1,"Execute":1}', "QMP input member 'execute' must be a string"),
        ('{"exec-oob":"stop"}', "QMP input member 'exec-oob' is unexpected"),
        ('{"exec-oob":3,"execute":"x"}', "QMP input member 'exec-oob' is unexpected"),
        ('{"execute":"stop","arguments":{"z":1}}', "Parameter 'z' is unexpected"),
        (
            '{"execute":"qmp_capabilities","arguments":{"enable":["bogus"]}}',
            "Parameter 'null' does not accept value 'bogus'",
        ),
    ],
)
def test_refusals_in_the_order_of_qemu(request_: str, desc: str) -> None:
    assert errors(run(negotiated(), request_.encode())) == [desc]


@pytest.mark.parametrize(
    ("request_", "desc"),
    [
        ('{"exec-oob":"stop"}', "The command stop does not support OOB"),
        ('{"exec-oob":"qmp_capabilities"}', "The command qmp_capabilities does not support OOB"),
        ('{"exec-oob":"nope"}', "The command nope has not been found"),
        ('{"exec-oob":3}', "QMP input member 'exec-oob' must be a string"),
        (
            '{"exec-oob":"nope","execute":"x"}',
            "QMP input member 'execute' clashes with 'exec-oob'",
        ),
        ('{"exec-oob":"stop","execute":1}', "QMP input member 'execute' must be a string"),
        ('{"exec-oob":1,"execute":"x"}', "QMP input member 'exec-oob' must be a string"),
        (
            '{"exec-oob":"stop","arguments":1}',
            "QMP input member 'arguments' must be an object",
        ),
        ('{"exec-oob":"stop","arguments":{"z":1}}', "The command stop does not support OOB"),
    ],
)
def test_out_of_band_refusals(request_: str, desc: str) -> None:
    assert errors(run(out_of_band(), request_.encode())) == [desc]


def test_what_is_out_of_band_does_not_wait_for_what_came_before() -> None:
    """Also its refusals; all else keeps its order, errors with it."""
    session = out_of_band()
    session.receive_data(b'{"execute":"stop","id":1}')
    stop = session.next_command()
    assert stop and session.wants_data() and not session.may_be_command()
    assert run(
        session,
        b'{"execute":"cont","id":2} } {"exec-oob":"query-yank","id":3} {"execute":"nope","id":4}'
        b'{"exec-oob":"cont","id":5} {"exec-oob":1,"id":6} {"execute":"query-yank","id":7}',
    ) == [
        {"return": [], "id": 3},
        error(5, "The command cont does not support OOB"),
        error(6, "QMP input member 'exec-oob' must be a string"),
    ]
    assert session.wants_data() and not session.may_be_command()
    session.reply(stop, None)
    assert session.may_be_command() and not session.wants_data()
    assert run(session, b"") == [
        {"return": {}, "id": 1},
        {"event": "RESUME"},
        {"return": {}, "id": 2},
        error(None, "JSON parse error, expecting value"),
        error(4, "The command nope has not been found", "CommandNotFound"),
        {"return": [], "id": 7},
    ]


def error(id_: int | None, desc: str, name: str = "GenericError") -> dict[str, Any]:
    return {"error": {"class": name, "desc": desc}} | ({} if id_ is None else {"id": id_})


@pytest.mark.parametrize(
    ("request_", "kept"),
    [('{"execute":"cont","id":1}', 8), ('{"execute":"cont","id":"' + "a" * (100 << 10) + '"}', 3)],
    ids=["number", "size"],
)
def test_what_waits_is_bounded(request_: str, kept: int) -> None:
    """Behind it nothing is looked at, as in QEMU, also nothing that is out of band."""
    session = out_of_band()
    session.receive_data(b'{"execute":"stop"}')
    stop = session.next_command()
    assert stop
    assert run(session, request_.encode() * (kept - 1) + b'{"exec-oob":"query-yank"}') != []
    session.receive_data(request_.encode() + b'{"exec-oob":"query-yank","id":9}')
    assert run(session, b"") == [] and not session.wants_data()
    session.reply(stop, None)
    ids = [message.get("id") for message in run(session, b"") if "event" not in message]
    assert ids == [None, *[json.loads(request_)["id"]] * kept, 9]


def test_an_answer_of_another_thread_changes_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come while the next request is looked at."""
    session = out_of_band()
    session.receive_data(b'{"execute":"stop","id":1}{"execute":"cont","id":2}')
    stop = session.next_command()
    assert stop and session.next_command() is None
    pull = JsonStream.pull

    def answered_meanwhile(stream: JsonStream) -> Any:
        item = pull(stream)
        session.reply(stop, None)
        monkeypatch.undo()
        return item

    monkeypatch.setattr(JsonStream, "pull", answered_meanwhile)
    messages = run(session, b'{"execute":"query-status","id":3}')
    assert [message["id"] for message in messages if "id" in message] == [1, 2, 3]


@pytest.mark.parametrize(
    ("request_", "desc"),
    [
        ('{"execute":"nope"}', "Expecting capabilities negotiation with 'qmp_capabilities'"),
        ('{"exec-oob":"qmp_capabilities"}', "QMP input member 'exec-oob' is unexpected"),
        ('{"execute":"qmp_capabilities","arguments":{"x":1}}', "Parameter 'x' is unexpected"),
        (
            '{"execute":"qmp_capabilities","arguments":{"enable":3}}',
            "Invalid parameter type for 'enable', expected: array",
        ),
        (
            '{"execute":"qmp_capabilities","arguments":{"enable":[3]}}',
            "Invalid parameter type for 'enable[0]', expected: string",
        ),
    ],
)
def test_before_negotiation(request_: str, desc: str) -> None:
    session = new_session()
    assert errors(run(session, request_.encode())) == [desc]
    assert not session.negotiated
    assert run(session, NEGOTIATE) == [{"return": {}}]


def test_events_begin_with_command_mode() -> None:
    session = new_session()
    session.send_event({"event": "STOP"})
    assert sent(session) == []
    run(session, NEGOTIATE)
    session.send_event({"event": "STOP"})
    assert sent(session) == [{"event": "STOP"}]


def test_one_command_at_a_time_and_errors_keep_their_place() -> None:
    session = negotiated()
    session.receive_data(b'{"execute":"stop","id":1} } {"execute":"cont","id":2}')
    first = session.next_command()
    assert first and (first.id, first.command.name) == (1, "stop")
    assert session.next_command() is None
    assert not session.wants_data()
    session.send_event({"event": "STOP"})
    session.reply(first, None)
    assert not session.wants_data()
    assert session.next_command() is None, "the error that comes first"
    second = session.next_command()
    assert second and second.id == 2
    session.fail(second, QmpError("no", QapiErrorClass.DEVICE_NOT_FOUND))
    assert session.wants_data()
    assert sent(session) == [
        {"event": "STOP"},
        {"return": {}, "id": 1},
        {"error": {"class": "GenericError", "desc": "JSON parse error, expecting value"}},
        {"error": {"class": "DeviceNotFound", "desc": "no"}, "id": 2},
    ]


def test_only_the_outstanding_command_can_be_answered() -> None:
    session = negotiated()
    session.receive_data(b'{"execute":"stop"}')
    invocation = session.next_command()
    assert invocation
    with pytest.raises(AssertionError):
        session.reply(Invocation(invocation.command, {}), None)
    session.reply(invocation, None)
    with pytest.raises(AssertionError):
        session.fail(invocation, QmpError("twice"))


@pytest.mark.parametrize("id_", [None, False, 0, "", [], {"a": [1, None]}, 1 << 63], ids=repr)
def test_id_is_echoed(id_: Any) -> None:
    session = negotiated()
    answers = run(session, json.dumps({"execute": "stop", "id": id_}).encode())
    assert answers[-1] == {"return": {}, "id": id_}
    answers = run(session, json.dumps({"execute": "nope", "id": id_}).encode())
    assert answers[-1]["id"] == id_


def test_input_is_bounded() -> None:
    session = new_session(Limits(token_size=100))
    answers = run(session, b'{"id": "' + b"a" * 1000)
    assert errors(answers)[0] == "JSON token size limit exceeded"


def test_negotiation_is_listed() -> None:
    names = [entry["name"] for entry in schema_info(table)]
    assert "qmp_capabilities" in names
