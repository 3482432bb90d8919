# SPDX-License-Identifier: MIT
"""x-fault-add and its companions as a client of the control socket has them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from errno import EIO
from pathlib import Path
from typing import Any

import nbd
import pytest

from faultline import CommandError
from live import Flight, Live, Qmp, make_image
from qcow2_images import create


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    keys = ("drive=id=vda,driver=null-co,node-name=n", "blockdev=null-co,node-name=free")
    with Live(tmp_path_factory.mktemp("m"), *keys) as machine:
        yield machine


@pytest.fixture(scope="module")
def qmp(live: Live) -> Iterator[Qmp]:
    with live.qmp() as control:
        yield control


@pytest.fixture(autouse=True)
def no_rules(qmp: Qmp) -> Iterator[None]:
    yield
    qmp("x-fault-clear")
    assert qmp("x-query-faults") == []


MIB, GIB = 1 << 20, 1 << 30

REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"errno": "ENOSPACE"}, "Parameter 'errno' does not accept value 'ENOSPACE'"),
    ({"errno": 999}, "Parameter 'errno' expects the number or name of an errno"),
    ({"errno": -5}, "Parameter 'errno' expects the number or name of an errno"),
    ({"errno": True}, "Invalid parameter type for 'errno', expected: integer"),
    ({"iotype": ["read", "frob"]}, "Parameter 'iotype[1]' does not accept value 'frob'"),
    ({"iotype": "trim"}, "Parameter 'iotype' does not accept value 'trim'"),
    ({"sector": -2}, "Parameter 'sector' expects a sector number, or -1 for any"),
    ({"sector": 1, "offset": 1}, "'sector' and 'offset' cannot be specified at the same time"),
    ({"once": True, "count": 2}, "'once' and 'count' cannot be specified at the same time"),
    ({"count": 0}, "Parameter 'count' expects a value greater than zero"),
    ({"length": 0}, "Parameter 'length' expects a value greater than zero"),
    ({"rate": 1.5}, "Parameter 'rate' expects a number between 0 and 1"),
    ({"id": "1st"}, "Parameter 'id' expects an identifier"),
    ({"node-name": "m"}, "Cannot find device='m' nor node-name='m'"),
    *(
        ({name: -1}, f"Parameter '{name}' expects a non-negative number")
        for name in ("offset", "length", "count", "after")
    ),
    ({"offset": GIB}, "Parameter 'offset' is beyond the end of node 'n' (1073741824 bytes)"),
    (
        {"sector": GIB // 512, "node-name": "n"},
        "Parameter 'sector' is beyond the end of node 'n' (1073741824 bytes)",
    ),
    (
        {"offset": GIB - 1, "length": 2},
        "Parameter 'length' is beyond the end of node 'n' (1073741824 bytes)",
    ),
    ({"connection": 1 << 32}, "Parameter 'connection' expects uint32_t"),
    (
        {"iotype": "flush", "offset": 0},
        "Parameter 'offset' is not for 'iotype' flush, without a place",
    ),
    (
        {"iotype": ["flush", "connect"], "length": 512},
        "Parameter 'length' is not for 'iotype' connect, flush, without a place",
    ),
    (
        {"iotype": "connect", "origin": "job"},
        "Parameter 'origin' value 'job' does not go with 'iotype' connect",
    ),
    (
        {"action": "hang", "hang-ms": 0},
        "Parameter 'hang-ms' expects a value greater than zero",
    ),
    ({"length": GIB + 1}, "Parameter 'length' is beyond the end of node 'n' (1073741824 bytes)"),
    (
        {"offset": 1 << 63, "node-name": "free"},
        "Parameter 'offset' is beyond the end of node 'free' (9223372036854775807 bytes)",
    ),
]


@pytest.mark.parametrize(("rule", "message"), REFUSALS, ids=[str(row[0]) for row in REFUSALS])
def test_refused_rules_leave_nothing(rule: dict[str, Any], message: str, qmp: Qmp) -> None:
    with pytest.raises(CommandError) as failed:
        qmp.execute("x-fault-add", {"node-name": "vda", **rule})
    assert (failed.value.error_class, failed.value.text) == ("GenericError", message)
    assert qmp("x-query-faults") == []


@pytest.mark.parametrize(("given", "number"), [("ENOSPC", 28), (28, 28), (0, 0), (None, 5)])
def test_errno_by_name_or_number(given: object, number: int, qmp: Qmp) -> None:
    rule = {} if given is None else {"errno": given}
    added = qmp.execute("x-fault-add", {"node-name": "n", **rule})
    assert [(r["id"], r["errno"]) for r in qmp("x-query-faults")] == [(added["id"], number)]


def test_rules_have_the_names_that_were_typed(qmp: Qmp) -> None:
    """Nobody knows the node-names that are made up, nor all the numbers of errnos."""
    for name, number in (("vda", "ETIMEDOUT"), ("free", 0)):
        qmp("x-fault-add", node_name=name, errno=number)
    rules = {rule["node-name"]: rule for rule in qmp("x-query-faults")}
    assert (rules["n"]["device"], rules["n"]["errno-name"]) == ("vda", "ETIMEDOUT")
    assert not {"device", "errno-name"} & rules["free"].keys()


def test_ids(qmp: Qmp) -> None:
    ids = [qmp("x-fault-add", node_name="vda")["id"] for _ in range(2)]
    assert ids == ["fault0", "fault1"]
    qmp("x-fault-remove", id="fault0")
    assert qmp("x-fault-add", node_name="vda")["id"] == "fault0"
    with pytest.raises(CommandError, match="Duplicate ID 'fault0' for fault"):
        qmp("x-fault-add", node_name="vda", id="fault0")
    with pytest.raises(CommandError, match="Fault 'fault7' not found"):
        qmp("x-fault-remove", id="fault7")


@pytest.mark.parametrize(
    "rule",
    [{"offset": GIB - 1, "length": 1}, {"offset": GIB - 1}, {"sector": GIB // 512 - 1}],
    ids=str,
)
def test_the_last_byte_can_fail(rule: dict[str, int], qmp: Qmp) -> None:
    qmp.execute("x-fault-add", {"node-name": "vda", **rule})


@pytest.fixture(name="odd", scope="module")
def _odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("odd")
    create(directory / "q", MIB)
    keys = ["drive=id=vdq,file=q,format=qcow2,node-name=q,file.node-name=q-file"]
    keys += ["drive=id=ro,driver=null-co,node-name=r,read-only=on"]
    keys += ["drive=id=nf,driver=null-co,node-name=f,discard=ignore,cache.no-flush=on"]
    with Live(directory, *keys) as live:
        yield live


IDLE: list[tuple[dict[str, Any], list[str]]] = [
    ({"node-name": "ro"}, []),
    ({"node-name": "ro", "iotype": ["write", "read"]}, []),
    (
        {"node-name": "ro", "iotype": ["write", "discard"]},
        ["'iotype' discard, write: node 'r' is read-only"],
    ),
    ({"node-name": "ro", "action": "drop"},
     ["'iotype' discard, write, write-zeroes: node 'r' is read-only"]),
    ({"node-name": "nf", "iotype": "discard"},
     ["'iotype' discard: node 'f' ignores discards ('discard' is not unmap)"]),
    ({"node-name": "nf", "iotype": "flush"},
     ["'iotype' flush: node 'f' is never flushed ('cache.no-flush')"]),
    ({"node-name": "q", "iotype": "connect"}, []),
    ({"node-name": "q-file", "iotype": "connect"},
     ["'iotype' connect: no drive has node 'q-file' at its top"]),
    ({"node-name": "q", "rate": 0}, ["'rate' 0 spares every request"]),
    ({"node-name": "q-file", "event": "l2_load"}, []),
    ({"node-name": "q-file", "event": "flush_to_disk"}, []),
    ({"node-name": "q", "event": "pwritev"}, []),
    ({"node-name": "q", "event": "l2_load"}, ["'event' l2_load does not occur at node 'q'"]),
    ({"node-name": "q-file", "event": "vmstate_load"},
     ["'event' vmstate_load does not occur at node 'q-file'"]),
    ({"node-name": "q", "state": 1}, []),
    ({"node-name": "q", "state": 3},
     ["'state' 3 is set by no rule of node 'q', which is in state 1"]),
]


@pytest.mark.parametrize(("rule", "wanted"), IDLE, ids=[str(row[0]) for row in IDLE])
def test_rules_that_hit_nothing(rule: dict[str, Any], wanted: list[str], odd: Live) -> None:
    """They are made, since things may change, and the reply says why they hit nothing."""
    with odd.qmp() as qmp:
        added = qmp.execute("x-fault-add", rule)
        assert added.get("warnings", []) == wanted
        assert [one["id"] for one in qmp("x-query-faults")] == [added["id"]]
        changed = qmp("x-fault-modify", id=added["id"], after=1)
        assert changed.get("warnings", []) == wanted
        qmp("x-fault-clear")


def test_states_that_another_rule_sets(odd: Live) -> None:
    with odd.qmp() as qmp:
        qmp("x-fault-add", node_name="q", iotype="write", new_state=3)
        assert "warnings" not in qmp("x-fault-add", node_name="q", state=3)
        qmp("x-fault-clear")


def test_rules_for_connections_that_are_or_were(odd: Live) -> None:
    with odd.qmp() as qmp:
        qmp("x-fault-add", node_name="q", iotype="connect", errno=0, notify=True)
        with odd.guest("vdq"):
            number = qmp.wait_event("X_FAULT_TRIGGERED")["connection"]
            rule = qmp("x-fault-add", node_name="q-file", connection=number)
            assert "warnings" not in rule
            assert qmp("x-fault-add", node_name="ro", connection=number)["warnings"] == [
                f"'connection' {number} is one to drive 'vdq', which does not lead to node 'r'"
            ]
        qmp.wait_for(lambda: _refusal(qmp, "x-fault-add", node_name="q", connection=number))
        closed = f"Parameter 'connection' is that of a closed one: {number}"
        assert _refusal(qmp, "x-fault-add", node_name="q", connection=number) == closed
        other = qmp("x-fault-add", node_name="q", iotype="flush")["id"]
        assert _refusal(qmp, "x-fault-modify", id=other, connection=number) == closed
        assert "warnings" not in qmp("x-fault-modify", id=rule["id"], after=1)
        assert "warnings" not in qmp("x-fault-add", node_name="q", connection=number + 1)
        qmp("x-fault-clear")


def _refusal(qmp: Qmp, command: str, **arguments: Any) -> str | None:
    try:
        added = qmp(command, **arguments)
    except CommandError as exc:
        return exc.text
    qmp("x-fault-remove", id=added["id"])
    return None


def test_a_change_after_which_a_rule_is_over(qmp: Qmp, live: Live) -> None:
    rule = qmp("x-fault-add", node_name="vda", count=2)["id"]
    with live.guest("vda") as guest:
        for _ in range(2):
            with pytest.raises(nbd.Error):
                guest.pread(512, 0)
    (used_up,) = qmp("x-fault-modify", id=rule, count=1)["warnings"]
    assert used_up == "'count' 1 is used up: 2 hits"
    assert qmp("x-fault-modify", id=rule, count=3) == {}
    assert qmp("x-fault-wait", id=rule, hits=3, timeout_ms=2)["timed-out"]
    (over,) = qmp("x-fault-modify", id=rule, not_after_ms=1)["warnings"]
    assert over == "'not-after-ms' 1 is over"


def test_what_a_key_says_that_hits_nothing(tmp_path: Path) -> None:
    keys = ["drive=id=vda,driver=null-co,read-only=on", "fault=node-name=vda,id=f,iotype=write"]
    with Live(tmp_path, *keys) as live, live.qmp() as qmp:
        assert [rule["id"] for rule in qmp("x-query-faults")] == ["f"]
    assert "fault=f: 'iotype' write: node '" in live.log.read_text()


def test_where_a_node_ends_that_may_grow(tmp_path: Path) -> None:
    """Only what a drive shows as it is, and just as long as it is now, ends anywhere."""
    create(tmp_path / "q", MIB)
    make_image(tmp_path / "d", MIB)
    keys = ["drive=id=vda,file=q,format=qcow2,node-name=q,file.node-name=q-file"]
    keys += ["drive=id=vdb,file=blkdebug::d,format=raw,node-name=d,file.node-name=d-filter"]
    keys += ["blockdev=null-co,node-name=free,size=1048576"]
    with Live(tmp_path, *keys) as live, live.qmp() as qmp:
        shown = {"vda", "vdb", "q", "d", "d-filter"}
        for name in ("free", "q-file", *shown):
            qmp("x-fault-add", node_name=name, offset=MIB - 512)
            if name in shown:
                with pytest.raises(CommandError, match=rf"\({MIB} bytes\)"):
                    qmp("x-fault-add", node_name=name, offset=MIB)
            else:
                qmp("x-fault-add", node_name=name, offset=1 << 40)
        qmp("block_resize", device="vda", size=2 * MIB)
        qmp("x-fault-add", node_name="vda", offset=MIB)


def test_negative_numbers_are_slips_where_qemu_has_nothing(tmp_path: Path) -> None:
    """QEMU takes them for the unsigned ones of the same bits, also where that is a surprise."""
    make_image(tmp_path / "d", MIB)
    drive = "drive=id=vda,file=d,format=raw,node-name=d,file.x-physical-size=1M"
    with Live(tmp_path, drive) as live, live.qmp() as qmp:
        qmp("block-set-write-threshold", node_name="d", write_threshold=-1)
        (node,) = (node for node in qmp("query-named-block-nodes") if node["node-name"] == "d")
        assert node["write_threshold"] == -1
        ours: list[tuple[str, dict[str, Any]]] = [
            ("x-volume-extend", {"node-name": "d", "add": -1}),
            ("x-volume-extend", {"node-name": "d", "size": -1}),
            ("x-volume-responder", {"node-name": "d", "chunk": -1}),
            ("x-volume-responder", {"node-name": "d", "threshold": -1}),
            ("x-volume-responder", {"node-name": "d", "latency-min-ms": -1}),
            (
                "blockdev-add",
                {"driver": "file", "node-name": "f", "filename": "d", "x-physical-size": -1},
            ),
        ]
        for command, arguments in ours:
            with pytest.raises(CommandError, match=r"expects a non-negative number$"):
                qmp.execute(command, arguments)


def members(qmp: Qmp, *names: str) -> list[Any]:
    (rule,) = qmp("x-query-faults")
    return [rule.get(name) for name in names]


def test_a_change_of_a_rule(qmp: Qmp) -> None:
    """What is not given stays; what excludes a member takes its place."""
    qmp("x-fault-add", node_name="vda", id="f", errno="ENOSPC", offset=MIB, length=512, once=True)
    qmp("x-fault-modify", id="f", errno="EIO", iotype="write")
    assert members(qmp, "errno-name", "iotype", "offset", "length", "count") == [
        *("EIO", "write", MIB, 512, 1)
    ]
    qmp("x-fault-modify", id="f", count=7)
    assert members(qmp, "count", "errno-name") == [7, "EIO"]
    qmp("x-fault-modify", id="f", sector=3)
    assert members(qmp, "sector", "offset", "length") == [3, None, None]
    qmp("x-fault-modify", id="f", offset=512)
    assert members(qmp, "sector", "offset", "length", "count") == [None, 512, None, 7]
    qmp("x-fault-modify", id="f", sector=-1, once=False)
    assert members(qmp, "offset", "count") == [512, 7]
    qmp("x-fault-modify", id="f")
    assert members(qmp, "node-name", "offset", "count", "rate") == ["n", 512, 7, 1.0]


def test_a_change_of_what_a_rule_does(qmp: Qmp) -> None:
    """A default is that of what the rule does now; what was asked for stays."""
    qmp("x-fault-add", node_name="vda", id="f", count=7)
    for action, errno in (("hang", 0), ("torn", EIO), ("error", EIO), ("hang", 0)):
        qmp("x-fault-modify", id="f", action=action)
        assert members(qmp, "action", "errno", "count") == [action, errno, 7]
    qmp("x-fault-modify", id="f", errno="ENOSPC")
    for action in ("error", "torn", "hang"):
        qmp("x-fault-modify", id="f", action=action)
        assert members(qmp, "errno-name") == ["ENOSPC"]


@pytest.mark.parametrize(("change", "message"), [
    *((rule, message) for rule, message in REFUSALS if not rule.keys() & {"id", "node-name"}),
    ({"node-name": "free"}, "Parameter 'node-name' is unexpected"),
    ({"action": "eror"}, "Parameter 'action' does not accept value 'eror'"),
    ({"up-ms": 2}, "'up-ms' and 'down-ms' need each other"),
    ({"id": "g"}, "Fault 'g' not found"),
], ids=str)
def test_refused_changes_leave_the_rule(change: dict[str, Any], message: str, qmp: Qmp) -> None:
    qmp("x-fault-add", node_name="vda", id="f", iotype="read", after=3)
    before = qmp("x-query-faults")
    with pytest.raises(CommandError) as failed:
        qmp.execute("x-fault-modify", {"id": "f", "rate": 0.5, **change})
    assert (failed.value.error_class, failed.value.text) == ("GenericError", message)
    assert qmp("x-query-faults") == before


@pytest.fixture(name="disk")
def _disk(tmp_path: Path) -> Iterator[Live]:
    make_image(tmp_path / "d.img", MIB)
    with Live(tmp_path, "drive=id=vda,file=d.img,format=raw,rerror=report") as machine:
        yield machine


def test_what_hangs_is_waited_for_and_released(disk: Live) -> None:
    flight = Flight()
    with disk.qmp() as qmp, disk.guest() as guest:
        qmp("x-fault-add", node_name="vda", action="hang", iotype="read", id="h")
        hanging = [flight.read(guest, at, 512) for at in (0, 4096)]
        flight.poll(0)
        assert qmp("x-fault-wait", id="h", hits=2) == {"hits": 2, "timed-out": False}
        assert qmp("x-query-faults")[0]["hanging"] == 2
        waiting = [(one["waits-for"], one["fault"]) for one in qmp("x-query-requests")]
        assert waiting == [("fault", "h")] * 2
        assert qmp("x-fault-release", id="h") == {"released": 2}
        assert flight.land(*hanging) == ["OK", "OK"]
        assert "hanging" not in qmp("x-query-faults")[0]
        assert qmp("x-query-requests") == []
        assert qmp("x-fault-release", id="h") == {"released": 0}
        last = flight.read(guest, 0, 512)
        flight.poll(0)
        qmp("x-fault-wait", id="h", hits=3)
        qmp("x-fault-clear")
        assert flight.land(last) == ["OK"]


def test_a_wait_ends_with_its_time_or_with_its_rule(disk: Live) -> None:
    with disk.qmp() as qmp, disk.qmp() as other:
        qmp("x-fault-add", node_name="vda", id="f", count=1)
        assert qmp("x-fault-wait", id="f", timeout_ms=1) == {"hits": 0, "timed-out": True}
        gone = threading.Timer(0, other, ["x-fault-remove"], {"id": "f"})
        gone.start()
        try:
            assert qmp("x-fault-wait", id="f") == {"hits": 0, "timed-out": False}
        except CommandError as exc:  # the rule was removed before the wait began
            assert exc.text == "Fault 'f' not found"
        gone.join()
        with pytest.raises(CommandError, match="Fault 'f' not found"):
            qmp("x-fault-wait", id="f")
