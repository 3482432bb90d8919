# SPDX-License-Identifier: MIT
"""What is sent is written in small pieces, whatever it is, and is the same as in one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from blockcore.qapi.json.writer import Encoded, Result, Shared, encode, pieces
from blockcore.qapi.schema import to_wire
from blockcore.qmp.output import CHUNK, Broken, Message, Output

PIECE_MAX = 800_000
"""64 Ki characters of a string, each two escapes of six."""

LARGE = {
    "string": "x" * 300_000,
    "escapes": "\u00e9\U0001f600\"" * 100_000,
    "numbers": list(range(100_000)),
    "floats": [n / 4 for n in range(20_000)],
    "lists": [[]] * 20_000,
    "objects": [{"a": n, "b": ["c" * 100]} for n in range(5000)],
    "members": {f"member {n}": n for n in range(20_000)},
    "names": {"n" * 300_000: {"m" * 300_000: 1.5}},
    "tuple": tuple(range(50_000)),
}


def depth(levels: int) -> Any:
    value: Any = list(range(50_000))
    for _ in range(levels):
        value = {"a": [value]}
    return value


@pytest.mark.parametrize("value", [*LARGE.values(), depth(150)], ids=[*LARGE, "deep"])
def test_large_values_are_written_in_pieces(value: Any) -> None:
    parts = list(pieces({"id": value}))
    assert max(map(len, parts)) < PIECE_MAX
    assert len(parts) > 4
    assert json.loads("".join(parts)) == {"id": list(value) if type(value) is tuple else value}


@pytest.mark.parametrize("value", [{"a": 1.0, "b": [None, True, "x"]}, [], {}, "", [1] * 100])
def test_small_ones_in_one(value: Any) -> None:
    (only,) = pieces(value)
    assert encode(value) == only.encode() + b"\r\n"


def test_each_image_of_a_long_chain_is_one_piece() -> None:
    """Not walked level by level, each of which would be looked at to its end again."""
    image: dict[str, Any] = {}
    images = []
    for number in range(200):
        image = {str(n): n for n in range(12)} | {"filename": str(number), "backing-image": image}
        images.append(image)
    parts = list(pieces({"return": Result(images, lambda value: value)}))
    assert len(parts) < 3 * len(images)


@dataclass(frozen=True, kw_only=True)
class Info:
    node_name: str
    size: int | None = None


def test_results_become_json_when_they_are_written() -> None:
    infos = [Info(node_name="a"), Info(node_name="b", size=1)]
    for value, expected in (
        (infos, [{"node-name": "a"}, {"node-name": "b", "size": 1}]),
        (infos[0], {"node-name": "a"}),
        ([], []),
        ("text", "text"),
        (Encoded([1, 2.0]), [1, 2]),
    ):
        assert json.loads(encode({"return": Result(value, to_wire), "id": 1})) == {
            "return": expected,
            "id": 1,
        }


def taken(output: Output) -> list[bytes]:
    return list(iter(output.take, b""))


def output_of(*messages: Message) -> Output:
    queue = list(reversed(messages))

    def replacement(message: dict[str, Any], error: Exception) -> dict[str, Any]:
        return {"error": str(error), "id": message["id"]}

    return Output(lambda: queue.pop() if queue else None, replacement)


def test_output_comes_in_chunks_and_in_order() -> None:
    messages: list[Message] = []
    for n in range(300):
        messages += [{"return": {}, "id": n}, Shared({"event": "STOP", "n": n})]
    messages.insert(300, {"return": "x" * 1_000_000, "id": "large"})
    output = output_of(*messages)
    chunks = taken(output)
    assert max(map(len, chunks)) < CHUNK + 65_536 + 100
    assert [json.loads(line) for line in b"".join(chunks).splitlines()] == [
        message.message if isinstance(message, Shared) else message for message in messages
    ]
    events = sum(len(m.line) for m in messages if isinstance(m, Shared))
    assert output.replies == sum(map(len, chunks)) - events


def test_a_reply_that_cannot_be_written_becomes_an_error() -> None:
    def fail(value: Any) -> Any:
        raise ValueError("no")

    output = output_of(
        {"return": {}, "id": 1},
        {"return": Result(1, fail), "id": 2},
        {"return": {1, 2}, "id": 3},
        {"return": {}, "id": 4},
    )
    assert [json.loads(line) for line in b"".join(taken(output)).splitlines()] == [
        {"return": {}, "id": 1},
        {"error": "no", "id": 2},
        {"error": "{1, 2} is not JSON", "id": 3},
        {"return": {}, "id": 4},
    ]


def test_the_beginning_of_one_cannot_be_taken_back() -> None:
    def fail_late(value: int) -> Any:
        if value > 5000:
            raise ValueError("no")
        return {"a": "x" * 100}

    output = output_of({"return": Result(list(range(6000)), fail_late), "id": 2})
    assert output.take().startswith(b'{"return": [')
    with pytest.raises(Broken):
        taken(output)
