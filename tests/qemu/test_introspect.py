# SPDX-License-Identifier: MIT
from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar

import pytest

from blockcore.qapi.events import BlockIoError, BlockWriteThreshold, Reset, Shutdown, Stop
from blockcore.qapi.introspect import schema_info
from blockcore.qapi.names import RunState, UInt64
from blockcore.qapi.qemu import RELEASES
from blockcore.qapi.schema import Alternate, CommandTable, FlatUnion
from blockcore.qmp.session import NEGOTIATION
from schema_compare import arguments_differ, results_differ
from tree import RECORDINGS

QEMU = json.loads(
    (RECORDINGS["7.2"] / "schema-7.2-query-qmp-schema.json").read_text()
)


OURS_ONLY = {"BLOCK_IO_ERROR": ["BLOCK_IO_ERROR.action: value retry here only"]}
"""A policy that QEMU lacks has an action of its own."""


@dataclass(frozen=True, kw_only=True)
class StatusInfo:
    running: bool
    singlestep: bool
    status: RunState


class MemberName(StrEnum):
    RAW = "raw"
    NULL_CO = "null-co"
    X_NEW = "x-new"


@dataclass(frozen=True, kw_only=True)
class Options:
    driver: MemberName
    node_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class RawOptions(Options):
    features: ClassVar[tuple[str, ...]] = ("dynamic-auto-read-only",)
    file: Annotated[str | Options, REF]
    offset: int | None = None
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class NullOptions(Options):
    size: int | None = None
    latency_ns: UInt64 = UInt64(0)
    read_zeroes: bool = False


OPTIONS = FlatUnion(
    "BlockdevOptions",
    tag="driver",
    base=Options,
    variants={"raw": RawOptions, "null-co": NullOptions},
)
REF = Alternate("BlockdevRef", OPTIONS, str)

table = CommandTable()


@table.command("query-status")
def query_status(machine: object) -> StatusInfo:
    raise NotImplementedError


@table.command("block_resize")
def block_resize(
    machine: object, *, device: str | None = None, node_name: str | None = None, size: int
) -> None:
    """Resize."""


@table.command("block_set_io_throttle", underscores=True)
def block_set_io_throttle(
    machine: object,
    *,
    device: str | None = None,
    id: str | None = None,
    bps: int,
    bps_rd: int,
    bps_wr: int,
    iops: int,
    iops_rd: int,
    iops_wr: int,
    bps_max: int | None = None,
    bps_rd_max: int | None = None,
    bps_wr_max: int | None = None,
    iops_max: int | None = None,
    iops_rd_max: int | None = None,
    iops_wr_max: int | None = None,
    bps_max_length: int | None = None,
    bps_rd_max_length: int | None = None,
    bps_wr_max_length: int | None = None,
    iops_max_length: int | None = None,
    iops_rd_max_length: int | None = None,
    iops_wr_max_length: int | None = None,
    iops_size: int | None = None,
    group: str | None = None,
) -> None:
    """Limit."""


@table.command("block-set-write-threshold")
def block_set_write_threshold(machine: object, *, node_name: str, write_threshold: UInt64) -> None:
    """Watch."""


@table.command("blockdev-add", boxed=True, features=("deprecated",))
def blockdev_add(machine: object, *, options: Annotated[Options, OPTIONS]) -> None:
    """Add."""


@table.command("blockdev-reopen")
def blockdev_reopen(machine: object, *, options: list[Annotated[Options, OPTIONS]]) -> None:
    """Reopen."""


@table.command("x-any")
def x_any(machine: object, *, x_value: Any, ratio: float = 1.0) -> list[str]:
    raise NotImplementedError


table.include(NEGOTIATION)
for event in (BlockIoError, BlockWriteThreshold, Shutdown, Reset, Stop):
    table.event(event)

OURS = schema_info(table, RELEASES["7.2"].absent)
BY_NAME = {entry["name"]: entry for entry in OURS}


@pytest.mark.parametrize(
    "name",
    [
        "query-status",
        "block_resize",
        "block_set_io_throttle",
        "block-set-write-threshold",
        "qmp_capabilities",
        "BLOCK_IO_ERROR",
        "BLOCK_WRITE_THRESHOLD",
        "STOP",
    ],
)
def test_arguments_are_those_of_qemu(name: str) -> None:
    assert arguments_differ(OURS, QEMU, name) == OURS_ONLY.get(name, [])


def test_union_differs_only_by_what_is_left_out_here() -> None:
    differences = arguments_differ(OURS, QEMU, "blockdev-add")
    assert {line for line in differences if " here" in line} == {
        "blockdev-add.driver: value x-new here only",
        "blockdev-add: case x-new here only",
    }
    assert "blockdev-add: member discard there only" in differences
    assert "blockdev-add.driver: value qcow2 there only" in differences


def test_comparison_sees_every_kind_of_difference() -> None:
    other = CommandTable()

    @other.command("block_resize")
    def changed(machine: object, *, device: str, node_name: int = 0, sizes: list[int]) -> str:
        raise NotImplementedError

    ours = schema_info(other)
    assert arguments_differ(ours, QEMU, "block_resize") == [
        "block_resize: member sizes here only",
        "block_resize: member size there only",
        "block_resize.device: mandatory here only",
        "block_resize.node-name: int here, str there",
    ]
    assert results_differ(ours, QEMU, "block_resize") == [
        "block_resize: builtin here, object there"
    ]


def test_result_of_query_status() -> None:
    differences = results_differ(OURS, QEMU, "query-status")
    assert all(line.startswith("query-status.status: value ") for line in differences)
    assert not any(" here" in line for line in differences)


def test_every_reference_leads_to_one_entry() -> None:
    names = [entry["name"] for entry in OURS]
    assert len(names) == len(set(names))
    references = {
        reference
        for entry in OURS
        for reference in (
            entry.get("arg-type"),
            entry.get("ret-type"),
            entry.get("element-type"),
            *(part.get("type") for key in ("members", "variants") for part in entry.get(key, [])),
        )
    }
    assert references - {None} <= set(names)


def test_shape_of_entries() -> None:
    empty = BY_NAME[BY_NAME["STOP"]["arg-type"]]
    assert empty == {"name": empty["name"], "meta-type": "object", "members": []}
    assert BY_NAME["block_resize"]["ret-type"] == empty["name"]
    assert BY_NAME["str"] == {"name": "str", "meta-type": "builtin", "json-type": "string"}
    assert BY_NAME["x-any"]["ret-type"] == "[str]"
    assert BY_NAME["x-any"]["features"] == ["unstable"]
    assert BY_NAME["blockdev-add"]["features"] == ["deprecated"]
    arguments = BY_NAME[BY_NAME["x-any"]["arg-type"]]
    assert arguments["members"] == [
        {"name": "x-value", "type": "any", "features": ["unstable"]},
        {"name": "ratio", "type": "number", "default": None},
    ]


def test_shape_of_a_union() -> None:
    union = BY_NAME[BY_NAME["blockdev-add"]["arg-type"]]
    assert union["tag"] == "driver"
    raw, null, new = union["variants"]
    assert [raw["case"], null["case"], new["case"]] == ["raw", "null-co", "x-new"]
    assert new["type"] == BY_NAME["STOP"]["arg-type"]
    raw_type = BY_NAME[raw["type"]]
    assert raw_type["features"] == ["dynamic-auto-read-only"]
    assert [member["name"] for member in raw_type["members"]] == ["file", "offset", "size"]
    reference = BY_NAME[raw_type["members"][0]["type"]]
    assert reference["meta-type"] == "alternate"
    assert reference["members"] == [{"type": union["name"]}, {"type": "str"}]
    driver = BY_NAME[union["members"][0]["type"]]
    assert driver["values"] == ["raw", "null-co", "x-new"]
    assert driver["members"][1:] == [
        {"name": "null-co"},
        {"name": "x-new", "features": ["unstable"]},
    ]
    assert BY_NAME[BY_NAME["blockdev-reopen"]["arg-type"]]["members"] == [
        {"name": "options", "type": f"[{union['name']}]"}
    ]


def test_same_table_gives_the_same_list_of_fresh_entries() -> None:
    absent = RELEASES["7.2"].absent
    again = schema_info(table, absent)
    assert again == OURS
    again[0].clear()
    assert schema_info(table, absent) == OURS
