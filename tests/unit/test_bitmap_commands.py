# SPDX-License-Identifier: MIT
"""block-dirty-bitmap-* and transaction, in the simulator; texts are QEMU 7.2's."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Coroutine
from typing import Any

import pytest

from blockcore.commands.actions import ActionTable, TransactionAction
from blockcore.commands.bitmaps import default_granularity
from blockcore.commands.table import table
from blockcore.drive.block_backend import BlockBackend
from blockcore.machine.machine import Machine
from blockcore.machine.transaction import ActionCompletionMode, Transaction
from blockcore.nodes.driver import NodeOptions
from blockcore.qapi.introspect import schema_info
from blockcore.qapi.names import QmpError
from blockcore.qapi.qemu import RELEASES
from blockcore.qapi.record import dataclass
from schema_compare import arguments_differ
from sim import MemoryNode, Sim, add_drive, execute, new_machine
from tree import RECORDINGS

QEMU = json.loads(
    (RECORDINGS["7.2"] / "schema-7.2-query-qmp-schema.json").read_text()
)
MIB = 1 << 20


class Bench:
    """A machine with the drive vda on node d0, and a node d1 of half the size."""

    def __init__(self) -> None:
        self.sim = Sim(1)
        self.machine: Machine = new_machine(self.sim)
        self.failing = 0
        self.root = MemoryNode(NodeOptions(node_name="d0"), self.machine, 2 * MIB, self._io)
        self.blk: BlockBackend = add_drive(self.machine, self.root, werror="report")
        other = MemoryNode(NodeOptions(node_name="d1"), self.machine, MIB)
        add_drive(self.machine, other, "vdb")

    def _io(self, what: str) -> None:
        if self.failing and what != "flush":
            raise OSError(self.failing, os.strerror(self.failing))

    def do(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Run to the end; the result, QmpError or OSError."""
        outcome: list[Any] = []

        async def wrapped() -> None:
            try:
                outcome.append(await coro)
            except (QmpError, OSError) as error:
                outcome.append(error)

        self.sim.start("client", wrapped())
        self.sim.run()
        (result,) = outcome
        if isinstance(result, Exception):
            raise result
        return result

    def qmp(self, command: str, /, **arguments: Any) -> Any:
        return self.do(execute(self.machine, command, **arguments))

    def write(self, offset: int, length: int) -> None:
        self.do(self.blk.pwrite(offset, memoryview(bytearray(length))))

    def bitmaps(self) -> dict[str, tuple[int, bool, bool]]:
        """Count, recording and busy of the bitmaps of d0, newest first."""
        info, *_ = self.qmp("query-block")
        return {
            entry.get("name", ""): (entry["count"], entry["recording"], entry["busy"])
            for entry in info["inserted"].get("dirty-bitmaps", [])
        }


@pytest.fixture
def bench() -> Bench:
    return Bench()


def refused(bench: Bench, command: str, /, **arguments: Any) -> str:
    with pytest.raises(QmpError) as caught:
        bench.qmp(command, **arguments)
    return caught.value.desc


def test_transaction_differs_only_by_the_actions_that_are_not_here() -> None:
    different = arguments_differ(schema_info(table, RELEASES["7.2"].absent), QEMU, "transaction")
    assert {line for line in different if " here" in line} == set()
    assert {line.split()[2] for line in different} == {"blockdev-snapshot-internal-sync"}


def test_what_queries_show(bench: Bench) -> None:
    bench.qmp("block-dirty-bitmap-add", node="d0", name="b")
    bench.qmp("block-dirty-bitmap-add", node="vda", name="c", granularity=4096, disabled=True)
    bench.write(4096, 512)
    expected = [
        {
            **{"name": "c", "count": 0, "granularity": 4096},
            **{"recording": False, "busy": False, "persistent": False},
        },
        {
            **{"name": "b", "count": 65536, "granularity": 65536},
            **{"recording": True, "busy": False, "persistent": False},
        },
    ]
    assert bench.qmp("query-block")[0]["inserted"]["dirty-bitmaps"] == expected
    d1, d0 = bench.qmp("query-named-block-nodes")
    assert d0["dirty-bitmaps"] == expected
    assert "dirty-bitmaps" not in d1


def test_what_the_recording_of_qemu_does(bench: Bench) -> None:
    """tests/golden/7.2/misc-block-commands, its part about bitmaps."""
    bench.qmp("block-dirty-bitmap-add", node="d0", name="b")
    bench.qmp("block-dirty-bitmap-add", node="d0", name="c", granularity=4096, disabled=True)
    bench.write(4096, 512)
    bench.qmp("block-dirty-bitmap-enable", node="d0", name="c")
    bench.write(0, 512)
    assert bench.bitmaps() == {"c": (4096, True, False), "b": (65536, True, False)}
    bench.qmp("block-dirty-bitmap-disable", node="d0", name="b")
    bench.qmp("block-dirty-bitmap-clear", node="d0", name="c")
    assert bench.bitmaps() == {"c": (0, True, False), "b": (65536, False, False)}


@pytest.mark.parametrize(
    ("arguments", "desc"),
    [
        ({"node": "nope", "name": ""}, "Bitmap name cannot be empty"),
        (
            {"node": "nope", "name": "x", "granularity": 3},
            "Cannot find device='nope' nor node-name='nope'",
        ),
        (
            {"node": "d0", "name": "x", "granularity": 100, "persistent": True},
            "Granularity must be power of 2 and at least 512",
        ),
        (
            {"node": "d0", "name": "x", "granularity": 0},
            "Granularity must be power of 2 and at least 512",
        ),
        (
            {"node": "d0", "name": "b", "persistent": True},
            "Can't store persistent bitmaps to vda: Operation not supported",
        ),
        ({"node": "d0", "name": "b"}, "Bitmap already exists: b"),
        (
            {"node": "d0", "name": "x", "granularity": 1 << 32},
            "Parameter 'granularity' expects uint32_t",
        ),
    ],
)
def test_bitmaps_that_cannot_be(bench: Bench, arguments: dict[str, Any], desc: str) -> None:
    bench.qmp("block-dirty-bitmap-add", node="d0", name="b")
    assert refused(bench, "block-dirty-bitmap-add", **arguments) == desc
    assert list(bench.bitmaps()) == ["b"]


@pytest.mark.parametrize("verb", ["remove", "clear", "enable", "disable"])
def test_bitmaps_that_are_not_there(bench: Bench, verb: str) -> None:
    command = f"block-dirty-bitmap-{verb}"
    assert refused(bench, command, node="n", name="zz") == "Node 'n' not found"
    assert refused(bench, command, node="d0", name="zz") == "Dirty bitmap 'zz' not found"


@pytest.mark.parametrize("verb", ["remove", "clear", "enable", "disable"])
def test_a_busy_bitmap_is_left_alone(bench: Bench, verb: str) -> None:
    bench.qmp("block-dirty-bitmap-add", node="d0", name="b")
    bench.write(0, 512)
    bench.root.bitmaps.create_successor(bench.root.bitmaps.find("b"))
    before = bench.bitmaps()
    assert before["b"] == (65536, True, True)
    assert refused(bench, f"block-dirty-bitmap-{verb}", node="d0", name="b") == (
        "Bitmap 'b' is currently in use by another operation and cannot be used"
    )
    assert bench.bitmaps() == before


@pytest.mark.parametrize(
    ("cluster_size", "granularity"),
    [(None, 65536), (512, 4096), (4096, 4096), (65536, 65536), (2 * MIB, 65536)],
)
def test_default_granularity(bench: Bench, cluster_size: int | None, granularity: int) -> None:
    bench.root.cluster_size = cluster_size
    assert default_granularity(bench.root) == granularity


@pytest.mark.parametrize("error", [0, errno.EIO], ids=["done", "failed"])
@pytest.mark.parametrize("what", ["write", "zero", "discard"])
def test_bits_are_set_whatever_comes_of_it(bench: Bench, what: str, error: int) -> None:
    bench.qmp("block-dirty-bitmap-add", node="d0", name="b", granularity=512)
    bench.failing = error
    requests: dict[str, Coroutine[Any, Any, Any]] = {
        "write": bench.blk.pwrite(1024, memoryview(bytearray(513))),
        "zero": bench.blk.zero(1024, 513, may_unmap=True),
        "discard": bench.blk.discard(1024, 513),
    }
    request = requests.pop(what)
    for other in requests.values():
        other.close()
    if error:
        with pytest.raises(OSError):
            bench.do(request)
    else:
        bench.do(request)
    assert list(bench.root.bitmaps.find("b").areas()) == [(1024, 1024)]


def test_a_write_under_way_is_marked_when_it_ends(bench: Bench) -> None:
    seen: list[int] = []

    async def administrator() -> None:
        await execute(bench.machine, "block-dirty-bitmap-add", node="d0", name="b")
        seen.append(bench.root.bitmaps.find("b").count)

    async def guest() -> None:
        await bench.blk.pwrite(0, memoryview(bytearray(512)))

    bench.sim.start("guest", guest(), now=True)
    bench.sim.start("administrator", administrator(), now=True)
    bench.sim.run()
    assert seen == [0]
    assert bench.bitmaps() == {"b": (65536, True, False)}


def test_bitmap_follows_the_size(bench: Bench) -> None:
    bench.qmp("block-dirty-bitmap-add", node="d0", name="b")
    bench.write(2 * MIB - 512, 512)
    bench.qmp("block_resize", node_name="d0", size=3 * MIB)
    bench.write(3 * MIB - 512, 512)
    assert list(bench.root.bitmaps.find("b").areas()) == [
        (2 * MIB - 65536, 65536),
        (3 * MIB - 65536, 65536),
    ]
    bench.qmp("block_resize", node_name="d0", size=MIB)
    assert bench.bitmaps() == {"b": (0, True, False)}


def test_merge(bench: Bench) -> None:
    for name, node in (("a", "d0"), ("b", "d0"), ("c", "d0"), ("y", "d1")):
        bench.qmp("block-dirty-bitmap-add", node=node, name=name, granularity=512)
    bench.root.bitmaps.find("b").set(0, 512)
    bench.root.bitmaps.find("c").set(1024, 512)
    sources = ["b", {"node": "vda", "name": "c"}]
    bench.qmp("block-dirty-bitmap-merge", node="d0", target="a", bitmaps=sources)
    bench.qmp("block-dirty-bitmap-merge", node="d0", target="a", bitmaps=[])
    assert list(bench.root.bitmaps.find("a").areas()) == [(0, 512), (1024, 512)]


@pytest.mark.parametrize(
    ("arguments", "desc"),
    [
        ({"node": "n", "target": "a", "bitmaps": []}, "Node 'n' not found"),
        ({"node": "d0", "target": "zz", "bitmaps": ["yy"]}, "Dirty bitmap 'zz' not found"),
        ({"node": "d0", "target": "a", "bitmaps": ["b", "yy"]}, "Dirty bitmap 'yy' not found"),
        (
            {"node": "d0", "target": "a", "bitmaps": ["b", {"node": "n", "name": "b"}]},
            "Node 'n' not found",
        ),
        (
            {"node": "d0", "target": "a", "bitmaps": ["b", {"node": "d1", "name": "y"}]},
            "Bitmaps are of different sizes (destination size is 2097152,"
            " source size is 1048576) and can't be merged",
        ),
        (
            {"node": "d0", "target": "busy", "bitmaps": ["b"]},
            "Bitmap 'busy' is currently in use by another operation and cannot be used",
        ),
        ({"node": "d0", "target": "busy", "bitmaps": ["yy"]}, "Dirty bitmap 'yy' not found"),
        (
            {"node": "d0", "target": "busy", "bitmaps": [{"node": "d1", "name": "y"}]},
            "Bitmap 'busy' is currently in use by another operation and cannot be used",
        ),
        (
            {"node": "d0", "target": "a", "bitmaps": ["busy", "yy"]},
            "Bitmap 'busy' is currently in use by another operation and cannot be used",
        ),
        (
            {"node": "d0", "target": "a", "bitmaps": ["b", "busy"]},
            "Bitmap 'busy' is currently in use by another operation and cannot be used",
        ),
    ],
)
def test_merges_that_cannot_be(bench: Bench, arguments: dict[str, Any], desc: str) -> None:
    for name, node in (("a", "d0"), ("b", "d0"), ("busy", "d0"), ("y", "d1")):
        bench.qmp("block-dirty-bitmap-add", node=node, name=name)
    bench.write(0, 512)
    bench.root.bitmaps.create_successor(bench.root.bitmaps.find("busy"))
    bench.qmp("block-dirty-bitmap-clear", node="d0", name="a")
    assert refused(bench, "block-dirty-bitmap-merge", **arguments) == desc
    assert bench.bitmaps()["a"] == (0, True, False)


def test_hash_is_that_of_qemu(bench: Bench) -> None:
    """Of a clean bitmap of 1000 KiB at 64 KiB, asked of qemu-storage-daemon 7.2."""
    bench.qmp("block_resize", node_name="d1", size=1000 << 10)
    bench.qmp("block-dirty-bitmap-add", node="d1", name="y")
    assert bench.qmp("x-debug-block-dirty-bitmap-sha256", node="d1", name="y") == {
        "sha256": "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc"
    }


def act(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": {"node": "d0", **data} if kind != "abort" else {}}


EVERYTHING = [
    act("block-dirty-bitmap-add", name="new"),
    act("block-dirty-bitmap-merge", target="clean", bitmaps=["dirty"]),
    act("block-dirty-bitmap-clear", name="dirty"),
    act("block-dirty-bitmap-merge", target="dirty", bitmaps=["clean"]),
    act("block-dirty-bitmap-clear", name="clean"),
    act("block-dirty-bitmap-disable", name="dirty"),
    act("block-dirty-bitmap-enable", name="off"),
    act("block-dirty-bitmap-disable", name="new"),
    act("block-dirty-bitmap-remove", name="gone"),
]


def populate(bench: Bench) -> None:
    for name in ("gone", "dirty", "clean", "off"):
        bench.qmp("block-dirty-bitmap-add", node="d0", name=name)
    bench.write(0, 512)
    bench.qmp("block-dirty-bitmap-clear", node="d0", name="clean")
    bench.qmp("block-dirty-bitmap-disable", node="d0", name="off")


def test_transaction_does_all(bench: Bench) -> None:
    populate(bench)
    assert bench.qmp("transaction", actions=EVERYTHING) is None
    assert bench.bitmaps() == {
        "new": (0, False, False),
        "off": (65536, True, False),
        "clean": (0, True, False),
        "dirty": (65536, False, False),
    }


@pytest.mark.parametrize("count", range(len(EVERYTHING) + 1))
def test_transaction_undoes_all(bench: Bench, count: int) -> None:
    populate(bench)
    before = bench.bitmaps()
    actions = [*EVERYTHING[:count], act("abort"), *EVERYTHING[count:]]
    assert refused(bench, "transaction", actions=actions) == (
        "Transaction aborted using Abort action"
    )
    assert bench.bitmaps() == before
    bench.write(MIB, 512)
    assert bench.bitmaps()["dirty"] == (2 * 65536, True, False)
    assert bench.bitmaps()["off"] == (65536, False, False)


@pytest.mark.parametrize(
    ("actions", "properties", "desc"),
    [
        (
            [
                act("block-dirty-bitmap-remove", name="gone"),
                act("block-dirty-bitmap-clear", name="gone"),
            ],
            {},
            "Bitmap 'gone' is currently in use by another operation and cannot be used",
        ),
        (
            [
                act("block-dirty-bitmap-remove", name="gone"),
                act("block-dirty-bitmap-add", name="gone"),
            ],
            {},
            "Bitmap already exists: gone",
        ),
        (
            [act("block-dirty-bitmap-clear", name="zz")],
            {"completion-mode": "grouped"},
            "Action 'block-dirty-bitmap-clear' does not support"
            " transaction property completion-mode = grouped",
        ),
        (
            [act("block-dirty-bitmap-clear", name="zz")],
            {"completion-mode": "individual"},
            "Dirty bitmap 'zz' not found",
        ),
        (
            [act("abort")],
            {"completion-mode": "grouped"},
            "Action 'abort' does not support transaction property completion-mode = grouped",
        ),
        ([{"type": "abort"}], {}, "Parameter 'actions[0].data' is missing"),
        ([{"data": {}}], {}, "Parameter 'actions[0].type' is missing"),
        (
            [{"type": "abort", "data": {"x": 1}}],
            {},
            "Parameter 'actions[0].data.x' is unexpected",
        ),
        ([act("nonsense")], {}, "Parameter 'type' does not accept value 'nonsense'"),
        (
            [act("block-dirty-bitmap-add")],
            {},
            "Parameter 'actions[0].data.name' is missing",
        ),
        (
            [act("abort")],
            {"completion-mode": "x"},
            "Parameter 'completion-mode' does not accept value 'x'",
        ),
        ("x", {}, "Invalid parameter type for 'actions', expected: array"),
    ],
)
def test_transactions_that_cannot_be(
    bench: Bench, actions: Any, properties: dict[str, Any], desc: str
) -> None:
    populate(bench)
    before = bench.bitmaps()
    assert refused(bench, "transaction", actions=actions, properties=properties) == desc
    assert bench.bitmaps() == before


def test_grouped_transactions_of_7_2(bench: Bench) -> None:
    """The check comes with each action, and `abort` has none."""
    bench.machine.qemu = RELEASES["7.2"]
    grouped = {"completion-mode": "grouped"}
    clear = act("block-dirty-bitmap-clear", name="zz")
    assert refused(bench, "transaction", actions=[act("abort"), clear], properties=grouped) == (
        "Transaction aborted using Abort action"
    )
    assert refused(bench, "transaction", actions=[clear], properties=grouped) == (
        "Action 'block-dirty-bitmap-clear' does not support"
        " Transaction property completion-mode = grouped"
    )


def test_no_write_falls_between_two_actions(bench: Bench) -> None:
    """Of two bitmaps that begin together no write is in only one."""
    for seed in range(200):
        bench = Bench()
        bench.sim.random.seed(seed)

        async def guest(number: int, bench: Bench = bench) -> None:
            for step in range(3):
                await bench.blk.pwrite((number * 3 + step) * 65536, memoryview(bytearray(512)))

        add = [act("block-dirty-bitmap-add", name=name) for name in ("a", "b")]
        for number in range(3):
            bench.sim.start(f"guest {number}", guest(number))
        bench.qmp("transaction", actions=add)
        one, two = (list(bench.root.bitmaps.find(name).areas()) for name in ("a", "b"))
        assert one == two, seed


def test_action_of_another_module_may_take_its_time(bench: Bench) -> None:
    """What a snapshot or a backup registers: asynchronous steps, undone last things first."""
    log: list[str] = []
    other = ActionTable()

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Named(TransactionAction):
        data: str

    @other.action("test", Named)
    async def prepare(machine: Machine, action: Named, transaction: Transaction) -> None:
        async def step(what: str) -> None:
            log.append(f"{what} {action.data}")

        transaction.on_commit(lambda: step("commit"))
        transaction.on_abort(lambda: step("abort"))

    async def run(finish: str) -> None:
        transaction = Transaction(ActionCompletionMode.INDIVIDUAL)
        for data in ("1", "2"):
            await other.prepare(bench.machine, Named(type="test", data=data), transaction)
        await (transaction.commit() if finish == "commit" else transaction.abort())

    bench.do(run("commit"))
    bench.do(run("abort"))
    assert log == ["commit 1", "commit 2", "abort 2", "abort 1"]
