# SPDX-License-Identifier: MIT
"""Every text in the tables below is QEMU 7.2's answer to the same blockdev-add or -blockdev."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar

import pytest

from blockcore.qapi.errno_types import KNOWN_ERRNO
from blockcore.qapi.events import BlockWriteThreshold
from blockcore.qapi.names import BlockdevOnError, QmpError, Size, UInt32, UInt64
from blockcore.qapi.schema import Alternate, CommandTable, FlatUnion, Null, parse, to_wire
from blockcore.qapi.visitor import Array


class Discard(StrEnum):
    IGNORE = "ignore"
    UNMAP = "unmap"


@dataclass(frozen=True, kw_only=True)
class Cache:
    direct: bool = False
    no_flush: bool = False


@dataclass(frozen=True, kw_only=True)
class Node:
    driver: str
    node_name: str | None = None
    discard: Discard | None = None
    read_only: bool = False
    cache: Cache | None = None


@dataclass(frozen=True, kw_only=True)
class FileNode(Node):
    filename: str


@dataclass(frozen=True, kw_only=True)
class RawNode(Node):
    file: Annotated[str | Node, REF]
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Qcow2Node(Node):
    file: Annotated[str | Node, REF]
    backing: Annotated[str | Node | Null | None, REF_OR_NULL] = None
    l2_cache_size: Size | None = None


@dataclass(frozen=True, kw_only=True)
class InjectError:
    event: BlockdevOnError
    errno: int = 5
    once: bool = False


@dataclass(frozen=True, kw_only=True)
class BlkdebugNode(Node):
    image: Annotated[str | Node, REF]
    inject_error: list[InjectError] | None = None


@dataclass(frozen=True, kw_only=True)
class NullNode(Node):
    size: int | None = None
    latency_ns: UInt64 = UInt64(0)
    delay: UInt32 = UInt32(0)
    ratio: float | None = None


OPTIONS = FlatUnion(
    "BlockdevOptions",
    tag="driver",
    base=Node,
    variants={"file": FileNode, "raw": RawNode, "qcow2": Qcow2Node, "null-co": NullNode},
)
OPTIONS.variants["blkdebug"] = BlkdebugNode
REF = Alternate("BlockdevRef", str, OPTIONS)
REF_OR_NULL = Alternate("BlockdevRefOrNull", Null, str, OPTIONS)

RAW = {"driver": "raw", "node-name": "a"}
FILE = {"driver": "file", "filename": "x"}
DEBUG = {"driver": "blkdebug", "image": "zz"}
NULL = {"driver": "null-co"}


def desc(tp: Any, value: Any, name: str = "", keyval: bool = False) -> str:
    with pytest.raises(QmpError) as caught:
        parse(tp, value, name, keyval=keyval)
    return caught.value.desc


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"driver": "bogus"}, "Parameter 'driver' does not accept value 'bogus'"),
        ({"driver": 1}, "Invalid parameter type for 'driver', expected: string"),
        ({"node-name": 5}, "Parameter 'driver' is missing"),
        (RAW, "Parameter 'file' is missing"),
        (RAW | {"file": 1}, "Invalid parameter type for 'file', expected: BlockdevRef"),
        (RAW | {"file": None}, "Invalid parameter type for 'file', expected: BlockdevRef"),
        (RAW | {"file": []}, "Invalid parameter type for 'file', expected: BlockdevRef"),
        (RAW | {"file": {}}, "Parameter 'file.driver' is missing"),
        (RAW | {"file": {"driver": "q"}}, "Parameter 'driver' does not accept value 'q'"),
        (RAW | {"file": {"driver": "file"}}, "Parameter 'file.filename' is missing"),
        (
            RAW | {"file": {"driver": "file", "filename": 1}},
            "Invalid parameter type for 'file.filename', expected: string",
        ),
        (RAW | {"yy": 2, "file": FILE | {"zz": 1}}, "Parameter 'file.zz' is unexpected"),
        (RAW | {"yy": 2, "file": FILE}, "Parameter 'yy' is unexpected"),
        (RAW | {"filename": "x", "file": FILE}, "Parameter 'filename' is unexpected"),
        (
            DEBUG | {"inject-error": [{"event": "bogus"}]},
            "Parameter 'event' does not accept value 'bogus'",
        ),
        (DEBUG | {"inject-error": [{}]}, "Parameter 'inject-error[0].event' is missing"),
        (
            DEBUG | {"inject-error": [{"event": "stop"}, {"event": "stop", "q": 1}]},
            "Parameter 'inject-error[1].q' is unexpected",
        ),
        (
            DEBUG | {"inject-error": [{"event": "stop"}, 3]},
            "Invalid parameter type for 'inject-error[1]', expected: object",
        ),
        (
            DEBUG | {"inject-error": {"event": "stop"}},
            "Invalid parameter type for 'inject-error', expected: array",
        ),
        (
            DEBUG | {"inject-error": [{"event": "stop", "errno": True}]},
            "Invalid parameter type for 'inject-error[0].errno', expected: integer",
        ),
        (
            DEBUG | {"inject-error": [{"event": "stop", "once": 1}]},
            "Invalid parameter type for 'inject-error[0].once', expected: boolean",
        ),
        (NULL | {"size": -1.5}, "Invalid parameter type for 'size', expected: integer"),
        (NULL | {"size": 1 << 63}, "Invalid parameter type for 'size', expected: integer"),
        (NULL | {"latency-ns": 1 << 64}, "Parameter 'latency-ns' expects uint64"),
        (NULL | {"latency-ns": True}, "Parameter 'latency-ns' expects uint64"),
        (NULL | {"latency-ns": 1.0}, "Parameter 'latency-ns' expects uint64"),
        (NULL | {"latency-ns": "1"}, "Parameter 'latency-ns' expects uint64"),
        (NULL | {"latency-ns": -(1 << 63) - 1}, "Parameter 'latency-ns' expects uint64"),
        (NULL | {"delay": -1}, "Parameter 'delay' expects uint32_t"),
        (NULL | {"delay": 1 << 32}, "Parameter 'delay' expects uint32_t"),
        (NULL | {"delay": 1 << 64}, "Parameter 'delay' expects uint64"),
        (NULL | {"ratio": "1"}, "Invalid parameter type for 'ratio', expected: number"),
        (NULL | {"read-only": None}, "Invalid parameter type for 'read-only', expected: boolean"),
        (NULL | {"cache": []}, "Invalid parameter type for 'cache', expected: object"),
        (
            NULL | {"cache": {"direct": 3}},
            "Invalid parameter type for 'cache.direct', expected: boolean",
        ),
        (
            NULL | {"cache": {"x": 3}, "discard": "q"},
            "Parameter 'discard' does not accept value 'q'",
        ),
        (
            {"driver": "qcow2", "file": "zz", "backing": 3},
            "Invalid parameter type for 'backing', expected: BlockdevRefOrNull",
        ),
    ],
    ids=str,
)
def test_first_offending_member_is_named_as_qemu_names_it(value: Any, expected: str) -> None:
    assert desc(OPTIONS, value) == expected


def test_flat_union_gives_the_variant_and_recurses() -> None:
    value = RAW | {"file": {"driver": "qcow2", "file": "img", "backing": None}, "size": 512}
    assert parse(OPTIONS, value) == RawNode(
        driver="raw",
        node_name="a",
        size=512,
        file=Qcow2Node(driver="qcow2", file="img", backing=Null.NULL),
    )


@pytest.mark.parametrize(
    ("tp", "value", "result"),
    [
        (UInt64, -1, (1 << 64) - 1),
        (Size, -(1 << 63), 1 << 63),
        (UInt64, (1 << 64) - 1, (1 << 64) - 1),
        (int, -(1 << 63), -(1 << 63)),
        (float, 3, 3.0),
        (Any, {"a": [None, 1.5]}, {"a": [None, 1.5]}),
        (list[Discard], ["unmap"], [Discard.UNMAP]),
        (Cache | str, "x", "x"),
        (Cache | str, {"no-flush": True}, Cache(no_flush=True)),
        (bool | float, 1, 1.0),
    ],
    ids=str,
)
def test_accepted_values(tp: Any, value: Any, result: Any) -> None:
    parsed = parse(tp, value)
    assert parsed == result
    assert type(parsed) is type(result)


def test_element_of_a_list_has_no_name_of_its_own() -> None:
    assert desc(list[Discard], ["q"], "enable") == "Parameter 'null' does not accept value 'q'"
    assert desc(list[UInt64], [1, "a"], "b") == "Parameter 'b[1]' expects uint64"


OURS = [
    (list[Discard], ["unmap", "q"], "[1]' does not accept value 'q'"),
    (list[list[Discard]], [[], ["q"]], "[1][0]' does not accept value 'q'"),
    (Discard | list[Discard], ["q"], "[0]' does not accept value 'q'"),
    (list[UInt32], [1, 1 << 32], "[1]' expects uint32_t"),
    (list[UInt64], [-1], "[0]' expects a non-negative number"),
    (list[Discard], [1], "Invalid parameter type for 'b[0]', expected: string"),
    (Array(KNOWN_ERRNO), [1, "EFOO"], "[1]' does not accept value 'EFOO'"),
]


@pytest.mark.parametrize(("tp", "value", "told"), OURS, ids=[row[2] for row in OURS])
def test_element_of_a_list_that_qemu_does_not_have(tp: Any, value: Any, told: str) -> None:
    """It is named: only QEMU calls it 'null'."""
    with pytest.raises(QmpError) as caught:
        parse(tp, value, "b", ours=True)
    assert caught.value.desc in (told, f"Parameter 'b{told}")


def test_union_without_a_name_is_named_after_its_choices() -> None:
    expected = "Invalid parameter type for 'x', expected: CacheOrStr"
    assert desc(Cache | str, 3, "x") == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1k", 1024),
        ("1K", 1024),
        ("1.5M", 3 << 19),
        ("4.5k", 4608),
        ("4.k", 4096),
        ("4096.", 4096),
        ("4096.0", 4096),
        ("4096b", 4096),
        ("4096B", 4096),
        ("0x1000", 4096),
        ("0x1E000", 0x1E000),
        ("0x1000b", 0x1000B),
        ("0x10k", 16384),
        ("010000", 10000),
        (" 4096", 4096),
        ("+4096", 4096),
        ("1e", 1 << 60),
        ("15E", 15 << 60),
        ("1.0000001M", 1 << 20),
        ("18446744073709551615", (1 << 64) - 1),
    ],
)
def test_keyval_size(text: str, value: int) -> None:
    assert parse(Size, text, "size", keyval=True) == value


@pytest.mark.parametrize(
    "text",
    "1Q,-1,,1e3,1kk,16E,1KiB,18446744073709551616,.5M,4096.5,4096.5b,4096 ,0x,9223372036854775807k"
    ",0x.8k,1.55e1k,inf,-0".split(","),
)
def test_keyval_size_refused(text: str) -> None:
    assert desc(Size, text, "size", keyval=True) == "Parameter 'size' expects a size value"


@pytest.mark.parametrize(
    ("tp", "text", "value"),
    [
        (int, "0x10", 16),
        (int, "010", 8),
        (int, " 5", 5),
        (int, "+5", 5),
        (int, "-1", -1),
        (int, "0" * 40 + "1000", 512),
        (UInt64, "-1", (1 << 64) - 1),
        (UInt64, "-18446744073709551615", 1),
        (UInt32, "4294967295", (1 << 32) - 1),
        (float, "1.5e3", 1500.0),
        *((bool, text, True) for text in ("on", "yes", "true", "y")),
        *((bool, text, False) for text in ("off", "no", "false", "n")),
        (Any, "1", "1"),
    ],
)
def test_keyval_scalars(tp: Any, text: str, value: Any) -> None:
    assert parse(tp, text, "x", keyval=True) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (NULL | {"size": "1k"}, "Parameter 'size' expects integer"),
        (NULL | {"size": ""}, "Parameter 'size' expects integer"),
        (NULL | {"size": "08"}, "Parameter 'size' expects integer"),
        (NULL | {"size": "5 "}, "Parameter 'size' expects integer"),
        (NULL | {"size": "9223372036854775808"}, "Parameter 'size' expects integer"),
        (NULL | {"size": "9" * 5000}, "Parameter 'size' expects integer"),
        (NULL | {"latency-ns": "18446744073709551616"}, "Parameter 'latency-ns' expects integer"),
        (NULL | {"latency-ns": "-18446744073709551616"}, "Parameter 'latency-ns' expects integer"),
        (NULL | {"delay": "-1"}, "Parameter 'delay' expects uint32_t"),
        (NULL | {"delay": "4294967296"}, "Parameter 'delay' expects uint32_t"),
        (NULL | {"ratio": "inf"}, "Parameter 'ratio' expects number"),
        (NULL | {"read-only": "ON"}, "Parameter 'read-only' expects 'on' or 'off'"),
        (NULL | {"read-only": "1"}, "Parameter 'read-only' expects 'on' or 'off'"),
        (NULL | {"read-only": {"x": "1"}}, "Parameters 'read-only.*' are unexpected"),
        ({"driver": {"x": "raw"}}, "Parameters 'driver.*' are unexpected"),
        (NULL | {"cache": {"direct": "q"}}, "Parameter 'cache.direct' expects 'on' or 'off'"),
        (NULL | {"cache": "q"}, "Invalid parameter type for 'cache', expected: object"),
        (DEBUG | {"inject-error": [{}]}, "Parameter 'inject-error.0.event' is missing"),
        (
            DEBUG | {"inject-error": [{"event": "stop", "errno": "q"}]},
            "Parameter 'inject-error.0.errno' expects integer",
        ),
        (
            DEBUG | {"inject-error": ["3"]},
            "Invalid parameter type for 'inject-error.0', expected: object",
        ),
        (RAW | {"file": ["x"]}, "Invalid parameter type for 'file', expected: BlockdevRef"),
        (RAW | {"file": {"filename": "2"}}, "Parameter 'file.driver' is missing"),
        ({"driver": ""}, "Parameter 'driver' does not accept value ''"),
    ],
    ids=str,
)
def test_keyval_errors(value: Any, expected: str) -> None:
    assert desc(OPTIONS, value, keyval=True) == expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    wire_names: ClassVar[dict[str, str]] = {"rd_bytes": "rd_bytes"}
    rd_bytes: int
    node_name: str | None = None
    action: Discard = Discard.UNMAP
    parts: list[Cache] | None = None
    data: Any = None


def test_wire_form_drops_none_and_applies_names() -> None:
    stats = Stats(rd_bytes=1, parts=[Cache(direct=True)], data={"default": None, "x": Null.NULL})
    wire = to_wire([stats])
    assert wire == [
        {
            "rd_bytes": 1,
            "action": "unmap",
            "parts": [{"direct": True, "no-flush": False}],
            "data": {"default": None, "x": None},
        }
    ]
    assert type(wire[0]["action"]) is str
    assert parse(Stats, wire[0] | {"data": 1}).parts == stats.parts


table = CommandTable()


@table.command("block_set_io_throttle", underscores=True)
def block_set_io_throttle(machine: object, *, bps: int, bps_rd: int, iops_max: int = 0) -> None:
    """Change I/O limits.

    All of them.
    """


@table.command("x-odd", wire_names={"new_state": "new_state"})
async def x_odd(machine: object, *, new_state: int = 0, node_name: str | None = None) -> Cache:
    return Cache()


@table.command("blockdev-add", boxed=True)
def blockdev_add(machine: object, *, options: Annotated[Node, OPTIONS]) -> None:
    """Add a node."""


def test_command_binds_arguments_to_keywords() -> None:
    throttle, odd, add = table
    assert throttle.bind({"bps": 1, "bps_rd": 2}) == {"bps": 1, "bps_rd": 2}
    assert odd.bind({"new_state": 1, "node-name": "n"}) == {"new_state": 1, "node_name": "n"}
    assert add.bind(FILE) == {"options": FileNode(driver="file", filename="x")}
    assert throttle.help == "Change I/O limits.\n\nAll of them."
    assert [command.is_coroutine for command in table] == [False, True, False]
    assert throttle.returns is None


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        ("block_set_io_throttle", {"bps": 1}, "Parameter 'bps_rd' is missing"),
        ("block_set_io_throttle", {"z": 1}, "Parameter 'bps' is missing"),
        (
            "block_set_io_throttle",
            {"bps": 1, "bps_rd": 2, "iops-max": 3},
            "Parameter 'iops-max' is unexpected",
        ),
        ("x-odd", {"new-state": 1}, "Parameter 'new-state' is unexpected"),
        ("blockdev-add", {}, "Parameter 'driver' is missing"),
    ],
)
def test_command_refuses(command: str, arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(QmpError) as caught:
        table.commands[command].bind(arguments)
    assert caught.value.desc == expected


def test_nesting_beyond_the_stack_is_an_answer_not_a_crash() -> None:
    value: dict[str, Any] = FILE
    for _ in range(1000):
        value = {"driver": "raw", "file": value}
    with pytest.raises(QmpError, match="nesting depth"):
        table.commands["blockdev-add"].bind(value)


def test_tables_merge_and_refuse_duplicates() -> None:
    merged = CommandTable()
    merged.include(table)
    assert merged.event(BlockWriteThreshold) is BlockWriteThreshold
    assert list(merged.events) == ["BLOCK_WRITE_THRESHOLD"]
    assert list(merged.commands) == ["block_set_io_throttle", "x-odd", "blockdev-add"]
    with pytest.raises(AssertionError):
        merged.include(table)
