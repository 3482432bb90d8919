# SPDX-License-Identifier: MIT
"""What waits take from the journal of events, and what a conversation makes of bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from faultline.conversation import Conversation, NotQmp
from faultline.errors import CommandError
from faultline.events import Event, Journal, Pattern, Wanted, WantedAny
from faultline.sizes import in_bytes


def journal(*names: str) -> Journal:
    made = Journal()
    for name in names:
        made.add(Event(name, {"n": made.count}))
    return made


def wanted(made: Journal, *patterns: str | Pattern, start: int = 0) -> list[int] | None:
    found = Wanted(made, [Pattern.of(pattern) for pattern in patterns], start).look()
    return None if found is None else [event["n"] for event in found]


def test_each_event_is_taken_once_and_others_stay() -> None:
    made = journal("STOP", "RESUME", "STOP")
    assert wanted(made, "RESUME") == [1]
    assert wanted(made, "STOP") == [0]
    assert wanted(made, "STOP") == [2]
    assert wanted(made, "STOP") is None
    assert [event["n"] for event in made.events] == [0, 1, 2]


def test_an_order_takes_nothing_before_all_of_it_has_come() -> None:
    made = journal("STOP")
    order = Wanted(made, [Pattern.of("STOP"), Pattern.of("RESUME")])
    assert order.look() is None
    assert order.missing() == "RESUME after STOP n=0"
    made.add(Event("RESUME", {"n": 1}))
    found = order.look()
    assert found is not None and [event.name for event in found] == ["STOP", "RESUME"]
    assert wanted(made, "STOP") is None


def test_an_order_is_not_met_backwards() -> None:
    assert wanted(journal("RESUME", "STOP"), "STOP", "RESUME") is None


def test_any_of_several_kinds_is_the_first_that_came() -> None:
    made = journal("RESET", "STOP", "RESUME")
    either = [Pattern.of("RESUME"), Pattern.of("STOP")]
    for name in ("STOP", "RESUME"):
        found = WantedAny(made, either).look()
        assert found is not None and found.name == name
    order = WantedAny(made, either, start=1)
    assert order.look() is None
    assert order.in_vain(5) == (
        "no RESUME or STOP within 5 s; events that came: STOP n=1; RESUME n=2"
    )
    assert wanted(made, "RESET") == [0]


def test_events_before_a_mark_do_not_count() -> None:
    made = journal("STOP", "STOP")
    assert wanted(made, "STOP", start=1) == [1]
    assert wanted(made, "STOP", start=made.count) is None


@pytest.mark.parametrize(
    ("members", "fits"),
    [
        ({}, True),
        ({"node_name": "disk"}, True),
        ({"node-name": "disk"}, True),
        ({"node_name": "other"}, False),
        ({"missing": None}, False),
        ({"nospace": lambda value: value is True}, True),
        ({"nospace": lambda value: value is False}, False),
    ],
)
def test_members_of_a_pattern(members: dict[str, Any], fits: bool) -> None:
    event = Event("BLOCK_IO_ERROR", {"node-name": "disk", "nospace": True})
    assert Pattern.of("BLOCK_IO_ERROR", **members).fits(event) == fits


def test_a_journal_keeps_the_last_events() -> None:
    made = Journal(kept=2)
    for number in range(5):
        made.add(Event("STOP", {"n": number}))
        if number == 3:
            assert wanted(made, "STOP") == [2]
    assert [event["n"] for event in made.events] == [3, 4]
    assert wanted(made, "STOP") == [3]
    assert made.count == 5


def test_a_journal_tells_what_it_does_not_keep() -> None:
    """Who follows a machine for weeks hears every event, and none takes memory."""
    heard: list[Event] = []
    made = Journal(kept=0, heard=heard.append)
    for number in range(3):
        made.add(Event("STOP", {"n": number}))
    assert [event["n"] for event in heard] == [0, 1, 2]
    assert (made.events, made.count) == ([], 3)


def test_an_event_as_it_came() -> None:
    for micros in (0, 1, 672058, 999_999):
        stamp = {"seconds": 1795220656, "microseconds": micros}
        for message in (
            {"timestamp": stamp, "event": "STOP"},
            {"timestamp": stamp, "event": "JOB_STATUS_CHANGE", "data": {"id": "j"}},
        ):
            assert json.dumps(Event.of(message).message()) == json.dumps(message)


def test_the_message_of_a_wait_in_vain_tells_what_came() -> None:
    order = Wanted(journal("STOP"), [Pattern.of("RESUME", reason="x")])
    order.look()
    assert order.in_vain(1.5) == "no RESUME reason=x within 1.5 s; events that came: STOP n=0"
    assert Wanted(journal(), [Pattern.of("STOP")]).in_vain(2).endswith("no event came")


def test_replies_find_their_commands() -> None:
    talk = Conversation()
    first, data = talk.command("query-status", {})
    second, _ = talk.command("block_resize", {"size": 1})
    assert json.loads(data) == {"execute": "query-status", "id": first}
    error = {"class": "GenericError", "desc": "No"}
    talk.feed(json.dumps({"error": error, "id": second}).encode() + b"\r\n")
    talk.feed(json.dumps({"return": 5, "id": first}).encode() + b"\r\n")
    reply = talk.reply(first)
    assert reply is not None and reply.result("query-status") == 5
    assert talk.reply(first) is None
    refused = talk.reply(second)
    assert refused is not None
    with pytest.raises(CommandError, match="^block_resize: No$"):
        refused.result("block_resize")


def test_nobody_waits_for_a_reply_that_is_forgotten() -> None:
    talk = Conversation()
    key, _ = talk.command("quit", {})
    talk.forget(key)
    talk.feed(json.dumps({"return": {}, "id": key}).encode() + b"\n")
    assert talk.reply(key) is None


def test_bytes_come_in_any_pieces() -> None:
    """QEMU with pretty=on breaks messages into lines."""
    stamp = {"seconds": 1, "microseconds": 500000}
    event = {"event": "STOP", "timestamp": stamp, "data": {"a": "ü\n"}}
    greeting: dict[str, Any] = {"QMP": {"version": {}, "capabilities": []}}
    data = b"".join(
        json.dumps(message, indent=indent).encode() + b"\r\n"
        for message in (greeting, event)
        for indent in (None, 4)
    )
    for size in (1, 7, len(data)):
        talk = Conversation()
        for at in range(0, len(data), size):
            talk.feed(data[at : at + size])
        assert talk.greeting == greeting["QMP"]
        assert talk.journal.events == [Event("STOP", {"a": "ü\n"}, 1.5)] * 2


@pytest.mark.parametrize("data", [b"NBDMAGIC\n", b"[1]\n", b'{"a": "\xff"}\n', b'{"other": 1}\n'])
def test_what_is_not_qmp(data: bytes) -> None:
    with pytest.raises(NotQmp):
        Conversation().feed(data)


@pytest.mark.parametrize("text", ["", "M", "1X", "1.5", "0.1k", "1 2", "--1"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="size|whole number"):
        in_bytes(text)
