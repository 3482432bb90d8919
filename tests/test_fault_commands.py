"""x-fault-add and its companions as a client of the control socket has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from live import Live, Qmp, QmpFailed


@pytest.fixture(scope="module")
def qmp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qmp]:
    drive = "drive=id=vda,driver=null-co,node-name=n"
    with Live(tmp_path_factory.mktemp("m"), drive) as machine, machine.qmp() as control:
        yield control


@pytest.fixture(autouse=True)
def no_rules(qmp: Qmp) -> Iterator[None]:
    yield
    qmp("x-fault-clear")
    assert qmp("x-query-faults") == []


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"errno": "ENOSPACE"}, "Parameter 'errno' does not accept value 'ENOSPACE'"),
    ({"errno": 999}, "Parameter 'errno' expects the number or name of an errno"),
    ({"errno": -5}, "Parameter 'errno' expects the number or name of an errno"),
    ({"errno": True}, "Invalid parameter type for 'errno', expected: integer"),
    ({"iotype": "trim"}, "Parameter 'iotype' does not accept value 'trim'"),
    ({"sector": -2}, "Parameter 'sector' expects a sector number, or -1 for any"),
    ({"sector": 1, "offset": 1}, "'sector' and 'offset' cannot be specified at the same time"),
    ({"once": True, "count": 2}, "'once' and 'count' cannot be specified at the same time"),
    ({"count": 0}, "Parameter 'count' expects a value greater than zero"),
    ({"length": 0}, "Parameter 'length' expects a value greater than zero"),
    ({"rate": 1.5}, "Parameter 'rate' expects a number between 0 and 1"),
    ({"id": "1st"}, "Parameter 'id' expects an identifier"),
    ({"node-name": "m"}, "Cannot find device='m' nor node-name='m'"),
]


@pytest.mark.parametrize(("rule", "message"), REFUSALS, ids=[str(row[0]) for row in REFUSALS])
def test_refused_rules_leave_nothing(rule: dict[str, Any], message: str, qmp: Qmp) -> None:
    with pytest.raises(QmpFailed) as failed:
        qmp.execute("x-fault-add", {"node-name": "vda", **rule})
    assert failed.value.error == {"class": "GenericError", "desc": message}
    assert qmp("x-query-faults") == []


@pytest.mark.parametrize(("given", "number"), [("ENOSPC", 28), (28, 28), (0, 0), (None, 5)])
def test_errno_by_name_or_number(given: object, number: int, qmp: Qmp) -> None:
    rule = {} if given is None else {"errno": given}
    added = qmp.execute("x-fault-add", {"node-name": "n", **rule})
    assert [(r["id"], r["errno"]) for r in qmp("x-query-faults")] == [(added["id"], number)]


def test_ids(qmp: Qmp) -> None:
    ids = [qmp("x-fault-add", node_name="vda")["id"] for _ in range(2)]
    assert ids == ["fault0", "fault1"]
    qmp("x-fault-remove", id="fault0")
    assert qmp("x-fault-add", node_name="vda")["id"] == "fault0"
    with pytest.raises(QmpFailed, match="Duplicate ID 'fault0' for fault"):
        qmp("x-fault-add", node_name="vda", id="fault0")
    with pytest.raises(QmpFailed, match="Fault 'fault7' not found"):
        qmp("x-fault-remove", id="fault7")
