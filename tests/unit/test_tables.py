# SPDX-License-Identifier: MIT
"""Tables of the command: fault rules, volumes, bitmaps, machines, and one look at a machine."""

from __future__ import annotations

from typing import Any

import pytest

from blockcore.cli import bitmaps, fault_table, volumes
from blockcore.cli.amounts import typed
from blockcore.cli.ls import table as machine_table
from blockcore.cli.machines import Found
from blockcore.cli.status_text import REQUESTS_MAX, described
from blockcore.cli.tables import fitted
from blockcore.qapi.texts import size

MIB = 1 << 20

TABLE = ("NAME", "SIZE", "STATE"), [("a", "10", ""), ("long-name", "", "well")]


def test_a_table() -> None:
    assert fitted(*TABLE, None) == [
        "NAME       SIZE  STATE",
        "a          10    -",
        "long-name  -     well",
    ]
    assert fitted(*TABLE, 22) == fitted(*TABLE, None)


def test_a_column_of_nothing_is_left_out() -> None:
    assert fitted(("A", "B"), [("1", ""), ("2", "")], None) == ["A", "1", "2"]


def test_a_table_on_a_narrow_screen() -> None:
    """Each row is a few lines; no line is wider than the screen if its cells are not."""
    rows = [("vda", "64.0 MiB", "stop", "enospc", "ok"), ("vdb", "", "report", "", "")]
    heading = ("DRIVE", "SIZE", "RERROR", "WERROR", "IO-STATUS")
    assert fitted(heading, rows, 30) == [
        "DRIVE vda",
        "  size 64.0 MiB, rerror stop,",
        "  werror enospc, io-status ok",
        "DRIVE vdb",
        "  rerror report",
    ]


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0"), (1, "1"), (512, "512"), (65536, "64k"), (MIB, "1M"), (MIB + 512, "1049088")],
)
def test_sizes_that_can_be_typed(nbytes: int, text: str) -> None:
    assert typed(nbytes) == text
    assert size(text) == nbytes


def rule(**more: Any) -> dict[str, Any]:
    """A rule as x-query-faults has it."""
    return {
        **{"id": "f", "device": "vda", "node-name": "#block1", "action": "error", "after": 0},
        **{"event": "none", "state": 0, "rate": 1.0, "seen": 0, "hits": 0, "active": True},
        **{"errno": 5, "errno-name": "EIO"},
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "plain": (rule(), "f vda all EIO 0 0"),
    "node": (rule(device=None, node_name="n"), "f n all EIO 0 0"),
    "range": (rule(iotype="write", offset=MIB, length=512), "f vda write 1M-1049088 EIO 0 0"),
    "from": (rule(offset=32 * MIB), "f vda all 32M- EIO 0 0"),
    "to": (rule(length=4096), "f vda all 0-4k EIO 0 0"),
    "sector": (rule(sector=3), "f vda all sector 3 EIO 0 0"),
    "when": (rule(after=2, rate=0.015), "f vda all EIO after 2 rate 1.5% 0 0"),
    "event": (rule(event="l2_load", state=2), "f vda all EIO l2_load in state 2 0 0"),
    "some hits": (rule(count=3, seen=4, hits=2), "f vda all EIO 4 2 of 3"),
    "used up": (rule(count=1, seen=1, hits=1, active=False), "f vda all EIO 1 1 of 1, used up"),
    "unknown number": (rule(errno=0, errno_name=None), "f vda all errno 0 0 0"),
    "another kind": (
        {k: v for k, v in rule(action="delay", latency_ms=9).items() if "errno" not in k},
        "f vda all delay latency-ms=9 0 0",
    ),
}


@pytest.mark.parametrize(("shown", "row"), ROWS.values(), ids=ROWS)
def test_a_rule(shown: dict[str, Any], row: str) -> None:
    assert " ".join(fault_table.table([shown])[1].split()) == row


def test_bitmaps() -> None:
    one = {"node-name": "n", "count": 3 * MIB, "granularity": 65536, "recording": True}
    other = {**one, "name": "b", "device": "vda", "recording": False, "busy": True}
    assert bitmaps.table([one, other], None) == [
        "BITMAP  NODE  DIRTY    GRANULARITY  STATE",
        "-       n     3.0 MiB  64k          recording",
        "b       vda   3.0 MiB  64k          disabled, busy",
    ]


VOLUME = {
    **{"node-name": "#block2", "filename": "/srv/v", "virtual-size": 8 * MIB, "refusals": 1},
    **{"physical-size": 2 * MIB, "wr-highest-offset": MIB, "extensions": 3},
}


def test_volumes() -> None:
    other = VOLUME | {"node-name": "#block3", "responder": {"extensions": 2, "resumes": 2}}
    assert volumes.table([VOLUME, other], {"#block2": "vda"}, None) == [
        "VOLUME  PHYSICAL  WRITTEN  VIRTUAL  EXTENSIONS  REFUSALS  RESPONDER",
        "vda     2.0 MiB   1.0 MiB  8.0 MiB  3           1         -",
        "/srv/v  2.0 MiB   1.0 MiB  8.0 MiB  3           1         2 extensions",
    ]


def test_machines() -> None:
    found = [
        Found(12, 75.0, "/run/a/m0.qmp", "m0", "io-error", ("vda", "vdb")),
        Found(345, 3.4, "/run/b/control"),
    ]
    assert machine_table(found, "/run/a", None) == [
        "PID  NAME  STATUS     AGE   DRIVES   CONTROL",
        "12   m0    io-error   1:15  vda vdb  m0.qmp",
        "345  -     no answer  0:03  -        /run/b/control",
    ]
    assert machine_table(found, "/", 30)[:2] == ["PID 12", "  name m0, status io-error,"]


def held(age_ms: int, waits_for: str | None = "run") -> dict[str, Any]:
    wait = {} if waits_for is None else {"waits-for": waits_for}
    return {
        **{"device": "vda", "iotype": "write", "offset": 32 * MIB, "length": 4096},
        **{"age-ms": age_ms, **wait},
    }


def machine(**more: Any) -> dict[str, Any]:
    """What a machine says about itself."""
    inserted = {"file": "disk.img", "image": {"virtual-size": 64 * MIB}, "node-name": "n"}
    return {
        **{"name": None, "status": {"status": "running", "running": True}, "faults": []},
        **{"block": [{"device": "vda", "io-status": "ok", "inserted": inserted}], "jobs": []},
        **{"drives": [{"device": "vda", "rerror": "stop", "werror": "enospc"}], "requests": []},
        **{"volumes": [], "above": {}, **more},
    }


def test_a_machine_where_nothing_happens() -> None:
    assert described(machine(), 80) == [
        "running",
        "",
        "DRIVE  SIZE      RERROR  WERROR  IO-STATUS  IMAGE",
        "vda    64.0 MiB  stop    enospc  ok         disk.img",
    ]
    assert described(machine(block=[], drives=[]), 80) == ["running", "", "There are no drives."]


def test_a_machine_where_much_happens() -> None:
    job = {"id": "j", "type": "mirror", "status": "running", "current-progress": 0}
    shown = machine(
        name="m0",
        status={"status": "io-error", "running": False},
        requests=[held(4000), held(12345), held(700, "throttle"), held(10, None),
                  held(9, "fault") | {"fault": "slow"}],
        faults=[rule(hits=1)],
        jobs=[{**job, "total-progress": MIB}],
        volumes=[VOLUME],
        above={"#block2": "vda"},
    )
    lines = described(shown, 80)
    assert lines[0] == "m0: io-error, 2 requests are held, the oldest for 0:12"
    assert lines[5:11] == [
        "REQUEST  DRIVE  OFFSET  LENGTH  AGE   WAITS FOR",
        "write    vda    32M     4k      0:12  cont",
        "write    vda    32M     4k      0:04  cont",
        "write    vda    32M     4k      0:01  I/O limits",
        "write    vda    32M     4k      0:00  its node",
        "write    vda    32M     4k      0:00  slow",
    ]
    titles = [line.split()[0] for line, before in zip(lines[1:], lines, strict=False) if not before]
    assert titles == ["DRIVE", "REQUEST", "FAULT", "JOB", "VOLUME"]
    assert max(map(len, described(shown, 40))) <= 40


def test_many_requests() -> None:
    lines = described(machine(requests=[held(n) for n in range(REQUESTS_MAX + 5)]), 80)
    assert lines[-1] == "and 5 more"
    assert len(lines) == 6 + REQUESTS_MAX + 1
    one = described(machine(requests=[held(61_000)]), 80)
    assert one[0] == "running, 1 request is held, for 1:01"


def test_a_server_that_has_no_policies() -> None:
    """QEMU's drives are shown with what QEMU tells."""
    lines = described(machine(drives=[], status={}), 80)
    assert lines == ["no run state", "", "DRIVE  SIZE      IO-STATUS  IMAGE",
                     "vda    64.0 MiB  ok         disk.img"]
