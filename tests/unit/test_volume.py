# SPDX-License-Identifier: MIT
"""Volumes that run full: the rule, the commands, and the manager, in virtual time."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcore.drive.block_backend import BlockBackend
from blockcore.machine.graph_changes import blockdev_add
from blockcore.machine.volume_responder import ResponderOptions, make_options
from blockcore.nodes.definitions.flat_options import open_options
from blockcore.nodes.definitions.options import parse_blockdev_options
from blockcore.nodes.drivers.file import FileNode
from blockcore.qapi.events import BlockIoError, Event, Resume, Stop, XVolumeExtended
from blockcore.qapi.names import QmpError, Size
from blockcore.rules.volume import Volume, make_volume
from sim import Sim, add_drive, execute, new_machine, pause, shortcut

pytestmark = pytest.mark.both_ways

KIB = 1024
MIB = 1 << 20
MS = 1_000_000


@given(
    st.integers(0, 100),
    st.integers(1, 9),
    st.booleans(),
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 200), st.integers(1, 50)),
            st.tuples(st.integers(0, 200), st.none()),
        )
    ),
)
def test_a_request_fits_whole_or_not_at_all(
    physical: int, extent: int, short: bool, script: list[tuple[int, int | None]]
) -> None:
    volume = Volume(physical, extent, short_write=short)
    limit = volume.physical_size
    assert limit % extent == 0 and physical <= limit < physical + extent
    for offset, length in script:
        if length is None:
            grown = volume.extend(offset)
            assert grown == (volume.physical_size > limit)
            assert volume.physical_size == max(limit, -(-offset // extent) * extent)
            limit = volume.physical_size
            continue
        fits = [byte < limit for byte in range(offset, offset + length)]
        expected = sum(fits) if short or all(fits) else 0
        assert volume.room(offset, length) == expected
        assert volume.gate().touches(offset, length) == (not all(fits))
        assert volume.demand >= offset + length


@pytest.mark.parametrize(
    ("arguments", "desc"),
    [
        ((None, 1, None), "'x-extent-size' cannot be used without 'x-physical-size'"),
        ((None, None, False), "'x-short-write' cannot be used without 'x-physical-size'"),
        ((1, 0, None), "Parameter 'x-extent-size' expects a value greater than zero"),
    ],
)
def test_volumes_that_cannot_be(arguments: Any, desc: str) -> None:
    with pytest.raises(QmpError) as caught:
        make_volume(*arguments)
    assert caught.value.desc == desc


def test_options_are_the_same_in_all_spellings() -> None:
    sizes = {"file.x-physical-size": "1G", "file.x-extent-size": "128M"}
    flat = open_options(
        {"driver": "raw", **sizes, "file.x-short-write": "on"},
        "d.img",
    )
    typed = parse_blockdev_options(
        {
            "driver": "raw",
            "file": {
                **{"driver": "file", "filename": "d.img", "x-physical-size": 1 << 30},
                **{"x-extent-size": 128 << 20, "x-short-write": True},
            },
        }
    )
    assert flat == typed


class Bench:
    """A machine with the raw drive vda on the node f, a sparse file on a volume."""

    def __init__(
        self,
        directory: Path,
        seed: int = 1,
        *,
        size: int = 8 * MIB,
        werror: str = "enospc",
        **x: Any,
    ) -> None:
        self.image = directory / "d.img"
        self.image.write_bytes(b"")
        os.truncate(self.image, size)
        self.sim = Sim(seed)
        self.machine = new_machine(self.sim)
        self.events: list[tuple[int, Event]] = []
        self.machine.listeners.append(lambda event, _: self.events.append((self.sim.now_ns, event)))
        options = {"driver": "file", "node-name": "f", "filename": str(self.image)}
        options |= {f"x-{name.replace('_', '-')}": value for name, value in x.items()}
        self.do(
            blockdev_add(self.machine, parse_blockdev_options(
                    {"driver": "raw", "node-name": "r", "discard": "unmap", "file": options}
                )
            )
        )
        self.blk: BlockBackend = add_drive(
            self.machine, self.machine.graph.nodes["r"], werror=werror
        )
        node = self.machine.graph.nodes["f"]
        assert isinstance(node, FileNode) and node.volume is not None
        self.node, self.volume = node, node.volume

    def start(self, coro: Coroutine[Any, Any, Any], name: str = "client") -> list[Any]:
        """Begin, as far as it goes at once; the outcome comes into the list."""
        outcome: list[Any] = []

        async def wrapped() -> None:
            try:
                outcome.append(await coro)
            except (QmpError, OSError) as error:
                outcome.append(error)

        self.sim.start(name, wrapped())
        return outcome

    def do(self, coro: Coroutine[Any, Any, Any]) -> Any:
        outcome = self.start(coro)
        self.sim.run()
        (result,) = outcome
        if isinstance(result, Exception):
            raise result
        return result

    def qmp(self, command: str, /, **arguments: Any) -> Any:
        return self.do(execute(self.machine, command, **arguments))

    def write(self, offset: int, length: int, pattern: int = 1) -> Coroutine[Any, Any, None]:
        return self.blk.pwrite(offset, memoryview(bytearray([pattern]) * length))

    def content(self, offset: int, length: int) -> bytes:
        return self.image.read_bytes()[offset : offset + length]

    def seen(self) -> list[str]:
        return [event.NAME for _, event in self.events]

    def query(self) -> dict[str, Any]:
        (info,) = self.qmp("x-query-volumes")
        assert isinstance(info, dict)
        return info


Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def bench(seed: int = 1, **options: Any) -> Bench:
        return Bench(tmp_path, seed, **{"physical_size": MIB, **options})

    return bench


def no_space(bench: Bench, coro: Coroutine[Any, Any, Any]) -> None:
    with pytest.raises(OSError) as caught:
        bench.do(coro)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("short", [False, True], ids=["whole", "short"])
def test_a_request_beyond_the_end_fails(make: Make, short: bool) -> None:
    bench = make(werror="report", short_write=short)
    bench.do(bench.write(MIB - 4096, 4096))
    no_space(bench, bench.write(MIB - 2048, 4096, 2))
    applied = b"\2" if short else b"\1"
    assert bench.content(MIB - 4096, 8192) == b"\1" * 2048 + applied * 2048 + bytes(4096)
    no_space(bench, bench.blk.zero(MIB - 1024, 4096, may_unmap=False))
    kept = b"\0" if short else applied
    assert bench.content(MIB - 2048, 4096) == applied * 1024 + kept * 1024 + bytes(2048)
    no_space(bench, bench.write(4 * MIB, 1))
    assert bench.volume.refusals == 3


def test_reads_and_discards_know_no_limit(make: Make) -> None:
    bench = make(werror="report")
    with bench.image.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"old")
    buf = memoryview(bytearray(b"x" * 8))
    bench.do(bench.blk.pread(2 * MIB, buf))
    assert bytes(buf) == b"old" + bytes(5)
    bench.do(bench.blk.discard(0, 8 * MIB))


@pytest.mark.one_way
def test_the_shortcut_is_closed_beyond_the_end_only(make: Make) -> None:
    bench = make()
    path = shortcut(bench.blk)
    assert path is not None and path.write_guard is not None
    assert path.read_guard is None
    assert not path.write_guard(MIB - 512, 512)
    assert path.write_guard(MIB - 512, 513) and path.write_guard(4 * MIB, 1)
    bench.qmp("x-volume-extend", node_name="vda", add=MIB)
    path = shortcut(bench.blk)
    assert path is not None and path.write_guard is not None and not path.write_guard(MIB, MIB)


def test_query(make: Make) -> None:
    bench = make(extent_size=768 * KIB)
    bench.do(bench.write(65536, 4096))
    info = bench.query()
    assert 4096 <= info.pop("allocated") < MIB
    assert info == {
        "node-name": "f",
        "filename": str(bench.image),
        "virtual-size": 8 * MIB,
        "physical-size": 2 * 768 * KIB,
        "wr-highest-offset": 65536 + 4096,
        "extent-size": 768 * KIB,
        "short-write": False,
        "extensions": 0,
        "refusals": 0,
    }


def test_the_cycle(make: Make) -> None:
    bench = make(extent_size=MIB)
    held = bench.start(bench.write(MIB - 512, 1024))
    bench.sim.run()
    assert not held
    assert bench.qmp("query-status")["status"] == "io-error"
    assert bench.qmp("query-block")[0]["io-status"] == "nospace"
    bench.qmp("x-volume-extend", node_name="vda", add=1)
    assert not held
    bench.qmp("cont")
    assert held == [None]
    assert bench.content(MIB - 512, 1024) == b"\1" * 1024
    assert bench.seen() == ["BLOCK_IO_ERROR", "STOP", "X_VOLUME_EXTENDED", "RESUME"]
    (extended,) = (event for _, event in bench.events if isinstance(event, XVolumeExtended))
    assert extended == XVolumeExtended(node_name="f", old_size=Size(MIB), new_size=Size(2 * MIB))


@pytest.mark.parametrize("name", ["f", "r", "vda"])
def test_extension_takes_its_time(make: Make, name: str) -> None:
    bench = make()
    began_ns = bench.sim.now_ns
    bench.qmp("x-volume-extend", node_name=name, size=3 * MIB, latency_ms=250)
    assert bench.events[-1][0] == began_ns + 250 * MS
    assert bench.volume.physical_size == 3 * MIB


def test_extensions_at_the_same_time_add_up(make: Make) -> None:
    bench = make()
    for latency_ms in (20, 10):
        bench.start(
            execute(bench.machine, "x-volume-extend", node_name="f", add=MIB, latency_ms=latency_ms)
        )
    bench.sim.run()
    assert bench.volume.physical_size == 3 * MIB


def test_extension_that_fails(make: Make) -> None:
    bench = make()
    with pytest.raises(QmpError, match="^Failed to extend volume: No space left on device$"):
        bench.qmp("x-volume-extend", node_name="f", add=MIB, errno="ENOSPC", latency_ms=5)
    assert bench.volume.physical_size == MIB
    assert bench.events == []


@pytest.mark.parametrize(
    ("arguments", "desc"),
    [
        ({"node_name": "f"}, "Need exactly one of 'size' and 'add'"),
        ({"node_name": "f", "size": MIB, "add": 1}, "Need exactly one of 'size' and 'add'"),
        ({"node_name": "f", "size": MIB - 1}, "Volume of node 'f' cannot shrink"),
        ({"node_name": "nope", "add": 1}, "Cannot find device='nope' nor node-name='nope'"),
        ({"node_name": "n", "add": 1}, "Node 'n' is not on a volume of limited physical size"),
    ],
)
def test_extensions_that_cannot_be(make: Make, arguments: dict[str, Any], desc: str) -> None:
    bench = make()
    bench.qmp("blockdev-add", **{"driver": "null-co", "node-name": "n"})
    with pytest.raises(QmpError) as caught:
        bench.qmp("x-volume-extend", **arguments)
    assert caught.value.desc == desc


def test_the_size_it_has_is_no_extension(make: Make) -> None:
    bench = make()
    bench.qmp("x-volume-extend", node_name="f", size=MIB)
    assert bench.events == []


@pytest.mark.parametrize(
    ("arguments", "free"),
    [({}, 2048 * MIB), ({"percent": 75}, 640 * MIB), ({"threshold": 12345}, 12345)],
    ids=["vdsm", "percent", "threshold"],
)
def test_where_the_threshold_is(arguments: dict[str, int], free: int) -> None:
    options = make_options(
        threshold=arguments.get("threshold"),
        percent=arguments.get("percent"),
        chunk=2560 * MIB,
        latency_min_ms=0,
        latency_max_ms=0,
        seed=0,
    )
    assert options.free == free


@pytest.mark.parametrize(
    ("arguments", "desc"),
    [
        ({"chunk": 0}, "Parameter 'chunk' expects a value greater than zero"),
        (
            {"threshold": 1, "percent": 1},
            "'threshold' and 'percent' cannot be specified at the same time",
        ),
        ({"percent": 101}, "Parameter 'percent' expects a value between 0 and 100"),
        (
            {"latency_min_ms": 2, "latency_max_ms": 1},
            "'latency-min-ms' cannot be larger than 'latency-max-ms'",
        ),
    ],
)
def test_managers_that_cannot_be(make: Make, arguments: dict[str, Any], desc: str) -> None:
    with pytest.raises(QmpError) as caught:
        make().qmp("x-volume-responder", node_name="f", **arguments)
    assert caught.value.desc == desc


def test_latencies_are_in_their_range_and_by_the_seed() -> None:
    def latencies(seed: int) -> list[int]:
        options = ResponderOptions(
            free=0, chunk=1, latency_min_ms=100, latency_max_ms=110, seed=seed
        )
        return [options.latency_ms(number) for number in range(200)]

    assert set(latencies(1)) == set(range(100, 111))
    assert latencies(1) == latencies(1) != latencies(2)


def test_manager_extends_before_the_end(make: Make) -> None:
    bench = make(size=64 * MIB)
    bench.qmp(
        "x-volume-responder",
        **{"node_name": "vda", "chunk": MIB, "percent": 50, "latency_min_ms": 200},
    )
    assert bench.node.write_threshold == MIB // 2
    bench.do(bench.write(MIB // 2, 512))
    times = {event.NAME: ns for ns, event in bench.events}
    assert bench.seen() == ["BLOCK_WRITE_THRESHOLD", "X_VOLUME_EXTENDED"]
    assert times["X_VOLUME_EXTENDED"] - times["BLOCK_WRITE_THRESHOLD"] == 200 * MS
    assert bench.node.write_threshold == MIB + MIB // 2
    assert bench.query()["responder"] == {
        **{"threshold": MIB + MIB // 2, "chunk": MIB, "latency-min-ms": 200},
        **{"latency-max-ms": 200, "seed": 0, "extensions": 1, "resumes": 0},
    }


def test_manager_that_is_late_lets_the_machine_go_on(make: Make) -> None:
    bench = make(size=64 * MIB)
    bench.qmp("x-volume-responder", node_name="vda", chunk=MIB, latency_min_ms=200)
    bench.do(bench.write(MIB, 512))
    assert bench.seen() == [
        *("BLOCK_WRITE_THRESHOLD", "BLOCK_IO_ERROR", "STOP"),
        *("X_VOLUME_EXTENDED", "RESUME"),
    ]


def test_manager_makes_up_for_a_threshold_it_has_missed(make: Make) -> None:
    bench = make(size=64 * MIB)
    bench.do(bench.blk.root.pwrite(MIB - 512, memoryview(bytearray(512))))
    bench.qmp("x-volume-responder", node_name="vda", chunk=MIB)
    assert bench.volume.physical_size == 2 * MIB


def test_manager_makes_up_for_a_guest_s_write(make: Make) -> None:
    """Of which the nodes may not know yet."""
    bench = make(size=64 * MIB)
    bench.do(bench.write(MIB - 512, 512))
    bench.qmp("x-volume-responder", node_name="vda", chunk=MIB)
    assert bench.volume.physical_size == 2 * MIB


def test_manager_does_not_resume_what_is_not_its_fault(make: Make) -> None:
    bench = make(size=64 * MIB)
    bench.qmp("x-volume-responder", node_name="vda", chunk=MIB, threshold=4096)
    bench.qmp("x-fault-add", node_name="vda", errno="ENOSPC", count=1)
    held = bench.start(bench.write(0, 512))
    bench.sim.run()
    assert bench.qmp("query-status")["status"] == "io-error"
    bench.qmp("cont")
    assert held == [None]


def test_discard_disarms_and_the_manager_arms_again(make: Make) -> None:
    bench = make(size=64 * MIB)
    bench.qmp("x-volume-responder", node_name="vda", chunk=MIB, threshold=MIB // 2)
    bench.do(bench.blk.discard(MIB, MIB))
    assert bench.seen() == ["BLOCK_WRITE_THRESHOLD"]
    assert bench.node.write_threshold == MIB // 2
    assert bench.volume.extensions == 0


@pytest.mark.one_way
def test_manager_leaves(make: Make) -> None:
    bench = make(size=64 * MIB)
    bench.qmp("x-volume-responder", node_name="vda", chunk=MIB, threshold=MIB // 2)
    bench.qmp("x-volume-responder", node_name="vda", enable=False)
    assert bench.node.write_threshold == 0
    assert shortcut(bench.blk) is not None
    assert "responder" not in bench.query()
    bench.do(bench.write(MIB - 512, 512))
    assert bench.volume.extensions == 0


def test_manager_that_leaves_during_an_extension_does_not_finish_it(make: Make) -> None:
    bench = make(size=64 * MIB)
    bench.qmp("x-volume-responder", node_name="vda", chunk=MIB, latency_min_ms=100)

    async def administrator() -> None:
        await pause()
        await bench.write(MIB - 512, 512)
        await execute(bench.machine, "x-volume-responder", node_name="f", enable=False)

    bench.do(administrator())
    assert bench.seen() == ["BLOCK_WRITE_THRESHOLD"]
    assert bench.volume.physical_size == MIB


def test_manager_goes_with_its_node(make: Make, tmp_path: Path) -> None:
    bench = make()
    options = {"driver": "file", "node-name": "g", "filename": str(bench.image)}
    bench.qmp("blockdev-add", **options, **{"x-physical-size": MIB})
    bench.qmp("x-volume-responder", node_name="g", chunk=MIB)
    assert len(bench.machine.volume_responders) == 1
    bench.qmp("blockdev-del", node_name="g")
    assert bench.machine.volume_responders == {}


@pytest.mark.one_way
@pytest.mark.parametrize("short", [False, True], ids=["whole", "short"])
def test_no_write_is_left_behind_under_any_schedule(tmp_path: Path, short: bool) -> None:
    """Writers that fill a volume much faster than its manager extends it."""
    for seed in range(60):
        bench = Bench(tmp_path, seed, size=2 * MIB, physical_size=64 * KIB, short_write=short)
        bench.qmp(
            "x-volume-responder",
            **{"node_name": "vda", "chunk": 128 * KIB, "percent": 50},
            **{"latency_min_ms": 0, "latency_max_ms": 30, "seed": seed},
        )

        async def writer(number: int, bench: Bench = bench) -> None:
            for block in range(number, 64, 4):
                await bench.write(block * 32 * KIB - 512 * (block % 2), 4096, block + 1)

        for number in range(4):
            bench.sim.start(f"writer {number}", writer(number))
        bench.sim.run()
        assert not [name for name in bench.sim.running if "writer" in name], bench.sim.story()
        for block in range(64):
            start = block * 32 * KIB - 512 * (block % 2)
            assert bench.content(start, 4096) == bytes([block + 1]) * 4096, (seed, block)
        seen = [event for _, event in bench.events]
        stops = sum(isinstance(event, Stop) for event in seen)
        resumes = sum(isinstance(event, Resume) for event in seen)
        errors = sum(isinstance(event, BlockIoError) for event in seen)
        assert stops == resumes <= errors, seed
        assert bench.machine.vm.running
