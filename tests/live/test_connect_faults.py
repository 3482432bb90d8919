# SPDX-License-Identifier: MIT
"""Connections whose opening a rule refuses, holds up or cuts off."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import nbd
import pytest

from live import Live, Qmp


@pytest.fixture(name="live", scope="module")
def _live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    keys = ("drive=id=vda,driver=null-co,node-name=a", "drive=id=vdb,driver=null-co")
    with Live(tmp_path_factory.mktemp("m"), *keys) as machine:
        yield machine


def can_connect(live: Live, export: str = "vda") -> bool:
    try:
        with live.guest(export) as guest:
            return len(guest.pread(512, 0)) == 512
    except nbd.Error:
        return False


def refusals(live: Live, **wanted: str) -> list[dict[str, Any]]:
    """Return what the log says of connections that a rule has refused."""
    found = []
    for line in map(json.loads, live.log.read_text().split("\n")[:-1]):
        if line.get("event") == "connection refused by a fault rule":
            assert line["level"] == "info"
            found.append({key: line[key] for key in ("rule", "drive", "connection", "errno")})
    return [one for one in found if wanted.items() <= one.items()]


ERRNOS = {"error": "ENOSPC", "disconnect": "ESHUTDOWN"}


@pytest.mark.parametrize("action", ["error", "disconnect"])
def test_refused(live: Live, qmp: Qmp, action: str) -> None:
    with live.guest("vda") as guest:
        more = {"errno": "ENOSPC"} if action == "error" else {}
        rule = {"action": action, "iotype": "connect", "count": 2, "notify": True, **more}
        qmp("x-fault-add", node_name="vda", **rule)
        assert [can_connect(live) for _ in range(3)] == [False, False, True]
        assert can_connect(live, "vdb")
        assert len(guest.pread(512, 0)) == 512
    events = [qmp.wait_event("X_FAULT_TRIGGERED") for _ in range(2)]
    assert [event["hits"] for event in events] == [1, 2]
    first, second = (event["connection"] for event in events)
    assert (second, events[0]["iotype"]) == (first + 1, "connect")
    assert events[0]["node-name"] == "a"
    said = {"rule": events[0]["id"], "drive": "vda", "errno": ERRNOS[action]}
    qmp.wait_for(lambda: len(refusals(live, rule=events[0]["id"], errno=ERRNOS[action])) == 2)
    assert refusals(live, rule=events[0]["id"], errno=ERRNOS[action]) == [
        {**said, "connection": number} for number in (first, second)
    ]


def test_held_up(live: Live, qmp: Qmp) -> None:
    """Who hangs keeps nobody else from connecting to another drive, or from being served."""
    rule = qmp("x-fault-add", node_name="vda", action="hang", iotype="connect")["id"]
    with live.guest("vdb") as guest:
        outcomes: list[bool] = []
        waiting = [
            threading.Thread(target=lambda: outcomes.append(can_connect(live))) for _ in range(3)
        ]
        for thread in waiting:
            thread.start()
        assert qmp("x-fault-wait", id=rule, hits=3) == {"hits": 3, "timed-out": False}
        assert can_connect(live, "vdb") and len(guest.pread(512, 0)) == 512
        assert not outcomes
        shown = [
            (one["device"], one["iotype"], one["waits-for"], one["fault"])
            for one in qmp("x-query-requests")
        ]
        assert shown == [("vda", "connect", "fault", rule)] * 3
        assert qmp("x-barrier", device="vda", timeout_ms=1)["timed-out"]
        assert not qmp("x-barrier", device="vdb")["timed-out"]
        assert qmp("x-fault-release", id=rule) == {"released": 3}
        for thread in waiting:
            thread.join()
    assert outcomes == [True] * 3


def test_who_gives_up_meanwhile(live: Live, qmp: Qmp) -> None:
    rule = qmp("x-fault-add", node_name="vda", action="hang", iotype="connect")["id"]
    guest = nbd.NBD()
    guest.set_export_name("vda")
    guest.aio_connect_unix(live.nbd_socket)
    while not qmp("x-fault-wait", id=rule, timeout_ms=1)["hits"]:
        guest.poll(100)
    del guest
    qmp.wait_for(lambda: "hanging" not in qmp("x-query-faults")[0])


def test_the_openings_of_a_number(live: Live, qmp: Qmp) -> None:
    qmp("x-fault-add", node_name="vda", iotype="connect", errno=0, notify=True)
    assert can_connect(live)
    number = qmp.wait_event("X_FAULT_TRIGGERED")["connection"]
    qmp("x-fault-clear")
    qmp("x-fault-add", node_name="vda", iotype="connect", connection=number + 2)
    assert [can_connect(live) for _ in range(3)] == [True, False, True]
