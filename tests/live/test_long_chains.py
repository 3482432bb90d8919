# SPDX-License-Identifier: MIT
"""Chains of hundreds of images: work that grows with them, not with their square."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockcore.commands.table import table
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.options import parse_blockdev_options
from blockcore.nodes.graph.conflicts import check_permissions, concerned_by
from blockcore.nodes.node import BlockNode
from blockcore.process.recursion import FRAMES_MAX, FRAMES_MIN, frames
from blockcore.qapi.json.writer import Result, pieces
from blockcore.qapi.names import QmpError
from blockcore.qapi.schema import Wire
from live import Live
from qcow2_images import create
from sim import Sim, add_drive, execute, new_machine, perform
from turns import longest

SIZE = 64 << 10

IMAGES = 190
"""In a chain by headers; QEMU allows 200."""


def make_chain(directory: Path, images: int) -> Path:
    """So many images on a raw one that is full of Z; gives the uppermost."""
    create(directory / "template", SIZE, "-u", "-b", "name-0000", "-F", "qcow2")
    template = (directory / "template").read_bytes()
    for number in range(images):
        below = b"name-%04d" % (number + 1)
        image = template.replace(b"name-0000", below)
        if number == images - 1:
            (directory / below.decode()).write_bytes(b"Z" * SIZE)
            image = image.replace(b"qcow2", b"raw\0\0").replace(
                b"\xe2\x79\x2a\xca\0\0\0\5", b"\xe2\x79\x2a\xca\0\0\0\3"
            )
        (directory / f"name-{number:04}").write_bytes(image)
    return directory / "name-0000"


def world(directory: Path, images: int) -> tuple[Machine, dict[str, Any]]:
    """A machine, and the options for a chain."""
    machine = new_machine(Sim(0))
    machine.graph.directory = str(directory)
    file = {"driver": "file", "filename": str(make_chain(directory, images))}
    return machine, {"driver": "qcow2", "node-name": "top", "file": file}


def calls(work: Callable[[], Any]) -> int:
    """How many functions of ours are called, without coroutines, which resume, and JSON."""
    found = 0

    def profile(frame: Any, event: str, _argument: Any) -> None:
        nonlocal found
        code = frame.f_code
        if event == "call" and not code.co_flags & (inspect.CO_COROUTINE | inspect.CO_GENERATOR):
            found += "/blockcore/" in code.co_filename and "/qapi/" not in code.co_filename

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def add(machine: Machine, options: dict[str, Any]) -> None:
    perform(machine.graph.open(parse_blockdev_options(options))).monitor_owned = True


def attach_drive(machine: Machine) -> None:
    add_drive(machine, machine.graph.nodes["top"], "vda", "stop", "stop")


def run(name: str, /, **arguments: Any) -> Callable[[Machine], Any]:
    return lambda machine: perform(execute(machine, name, **arguments))


WORK: dict[str, Callable[[Machine], Any]] = {
    "attach": attach_drive,
    "query-block": run("query-block"),
    "query-named-block-nodes": run("query-named-block-nodes"),
    "query-blockstats": run("query-blockstats"),
    "resize": run("block_resize", node_name="top", size=2 * SIZE),
    "snapshot": run(
        "blockdev-snapshot-sync", node_name="top", snapshot_file="s", snapshot_node_name="s"
    ),
    "bitmap": run("block-dirty-bitmap-add", node="top", name="b"),
    "change-backing-file": run(
        "change-backing-file", device="vda", image_node_name="top", backing_file="name-0001"
    ),
    "concerns": lambda machine: machine.concerns_changed(),
}


def counts(directory: Path, images: int) -> dict[str, int]:
    directory.mkdir()
    machine, options = world(directory, images)
    found = {"open": calls(lambda: add(machine, options))}
    for name, work in WORK.items():
        found[name] = calls(lambda work=work: work(machine))  # type: ignore[misc]
    return found


def test_work_grows_with_the_length_of_a_chain(tmp_path: Path) -> None:
    short, long = counts(tmp_path / "short", 30), counts(tmp_path / "long", 60)
    grown = {name: long[name] / max(short[name], 1) for name in short}
    assert {name: factor for name, factor in grown.items() if factor > 2.5} == {}
    assert long["open"] > 1000, "they are counted"


def test_closing_too(tmp_path: Path) -> None:
    found = []
    for images in (30, 60):
        (tmp_path / str(images)).mkdir()
        machine, options = world(tmp_path / str(images), images)
        add(machine, options)
        found.append(calls(lambda: run("blockdev-del", node_name="top")(machine)))
        assert not machine.graph.nodes
    assert found[1] < 2.5 * found[0]


def test_a_new_user_concerns_what_it_changes(tmp_path: Path) -> None:
    """An overlay that nobody writes to changes nothing below the image it is on."""
    machine, options = world(tmp_path, 10)
    add(machine, options)
    top = machine.graph.nodes["top"]
    below = top.backing
    assert below is not None
    assert concerned_by(top) == [top.children["file"], below]
    attach_drive(machine)
    assert set(concerned_by(top)) >= {top.children["file"], below}


def all_below(machine: Machine, node: BlockNode) -> list[BlockNode]:
    return [below for below in machine.graph.subtree(node) if below is not node]


def conflict(nodes: list[BlockNode]) -> str:
    try:
        check_permissions(nodes)
    except QmpError as exc:
        return exc.desc
    return ""


@pytest.mark.parametrize("seed", range(30))
def test_what_a_new_node_breaks_is_found_among_what_it_concerns(seed: int) -> None:
    """In random graphs: as much as by a look at everything below it."""
    machine = new_machine(sim := Sim(seed))
    random = sim.random.random
    perform(execute(machine, "blockdev-add", driver="null-co", node_name="n0"))
    for number in range(1, 25):
        nodes = list(machine.graph.nodes.values())
        below = nodes[int(random() * len(nodes))]
        driver, child = ("raw", "file") if random() < 0.6 else ("blkdebug", "image")
        options: dict[str, Any] = {
            "driver": driver,
            "node_name": f"n{number}",
            "read_only": random() < 0.3,
            child: below.node_name,
        }
        before = conflict(list(machine.graph.nodes.values()))
        assert not before
        try:
            perform(execute(machine, "blockdev-add", **options))
        except QmpError:
            continue
        assert not conflict(all_below(machine, machine.graph.nodes[f"n{number}"]))
        if random() < 0.4:
            node = machine.graph.nodes[f"n{number}"]
            try:
                add_drive(machine, node, f"d{number}", "stop", "stop")
            except QmpError:
                assert not conflict(list(machine.graph.nodes.values()))


def test_depth_fits_on_the_stack() -> None:
    assert frames(8 << 20) == FRAMES_MAX
    assert FRAMES_MIN < frames(2 << 20) < FRAMES_MAX
    assert frames(64 << 10) == FRAMES_MIN


def test_the_nodes_of_a_long_chain_are_told_bit_by_bit(tmp_path: Path) -> None:
    """Each says all that is below it again: 10 MB, which nobody else has to wait for."""
    machine, options = world(tmp_path, IMAGES)
    add(machine, options)
    nodes: list[Any] = []

    async def query() -> None:
        command = table.commands["query-named-block-nodes"]
        nodes.extend(await command.function(machine))

    assert longest(query()) < 20 * IMAGES, "the lock is let go for each node"
    message = {"return": Result(nodes, Wire(machine.qemu.absent))}
    said = list(pieces(message))
    assert len(nodes) == 2 * IMAGES + 2 and len(said) > len(nodes)
    assert sum(map(len, said)) > 300 * IMAGES * IMAGES / 2
    assert max(map(len, said)) < 600 * IMAGES, "no piece is more than one node"


@pytest.mark.slow
def test_a_guest_on_a_long_chain(tmp_path: Path) -> None:
    """More images than Python's thousand frames: read through, written, shown and closed."""
    make_chain(tmp_path, 190)
    with Live(tmp_path, "drive=id=vda,file=name-0000,format=qcow2") as live:
        with live.qmp() as qmp, live.guest() as guest:
            for number in range(80):
                qmp("blockdev-snapshot-sync", device="vda", snapshot_file=f"over-{number}")
            guest.pwrite(b"new" * 100, 1000)
            guest.flush()
            assert guest.pread(SIZE, 0) == b"Z" * 1000 + b"new" * 100 + b"Z" * (SIZE - 1300)
            qmp("stop")
            qmp("cont")
            image, depth = qmp("query-block")[0]["inserted"]["image"], 0
            while (image := image.get("backing-image")) is not None:
                depth += 1
            assert depth == 270
            assert len(qmp("query-named-block-nodes", flat=True)) == 2 * 271
            qmp("query-blockstats")
        assert live.stop() == 0
        assert "Traceback" not in live.log.read_text() and "bug of ours" not in live.log.read_text()
    assert os.path.exists(tmp_path / "over-79")
