# SPDX-License-Identifier: MIT
"""Names of backing files that are emptied, or for which there is no room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blockcore.machine.machine import Machine
from blockcore.qapi.names import QmpError
from qcow2_images import check_clean, create, qemu_img
from sim import Sim, execute, new_machine, perform

LONGEST = 1023


class World:
    """A machine with images `top` on `mid` on `base`."""

    def __init__(self, directory: Path, cluster_size: int) -> None:
        self.sim = Sim(0)
        self.machine: Machine = new_machine(self.sim)
        self.machine.graph.directory = str(directory)
        self.top = directory / "top"
        create(directory / "base", "1M", cluster_size=cluster_size)
        for name, below in (("mid", "base"), ("top", "mid")):
            more = ("-b", below, "-F", "qcow2")
            create(directory / name, "1M", *more, cluster_size=cluster_size)
        options: Any = None
        for name in ("base", "mid", "top"):
            file = {"driver": "file", "filename": name}
            backing = {"backing": options} if options else {}
            options = {"driver": "qcow2", "node-name": name, "file": file, **backing}
        perform(execute(self.machine, "blockdev-add", **options))
        self.events: list[Any] = []
        self.machine.listeners.append(lambda event, now_ns: self.events.append(event))

    def names(self) -> dict[str, str]:
        """What the queries say of the image's backing file."""
        nodes = perform(execute(self.machine, "query-named-block-nodes"))
        (image,) = (node["image"] for node in nodes if node["node-name"] == "top")
        members = ("backing-filename", "backing-filename-format")
        assert ("backing-filename" in image) is ("full-backing-filename" in image)
        return {key: image[key] for key in members if key in image}

    def written(self) -> dict[str, str]:
        """What qemu-img finds in the file; all is to be in it by now."""
        info = json.loads(qemu_img("info", "-U", "--output=json", self.top))
        members = ("backing-filename", "backing-filename-format")
        return {key: info[key] for key in members if key in info}

    def change(self, name: str) -> str | None:
        """Rename; gives the refusal."""
        try:
            rename = {"device": "top", "image_node_name": "top", "backing_file": name}
            perform(execute(self.machine, "change-backing-file", **rename))
        except QmpError as exc:
            return exc.desc.replace(name, "NAME")
        return None

    def job(self, command: str, name: str) -> str | None:
        """Stream `mid` up, or commit it down, and write a name; gives the job's error."""
        where = {"top_node": "mid"} if command == "block-commit" else {}
        more = {"job_id": "j", "device": "top", "base_node": "base", "backing_file": name}
        self.sim.start("job", execute(self.machine, command, **more, **where))
        self.sim.run()
        (error,) = (e.error for e in self.events if e.NAME == "BLOCK_JOB_COMPLETED")
        return None if error is None else str(error)


WAYS = ["change-backing-file", "block-stream", "block-commit"]


def rename(world: World, way: str, name: str) -> str | None:
    return world.change(name) if way == "change-backing-file" else world.job(way, name)


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_name_is_none(tmp_path: Path, way: str) -> None:
    world = World(tmp_path, 65536)
    assert "backing-filename" in world.names()
    assert rename(world, way, "") is None
    assert world.names() == world.written() == {}
    perform(world.machine.graph.close_all())
    check_clean(world.top)


ROOM: list[tuple[int, int, str | None]] = [
    (65536, LONGEST, None),
    (65536, LONGEST + 1, "Invalid argument"),
    (65536, 4000, "Invalid argument"),
    (512, 450, "No space left on device"),
    (512, LONGEST + 1, "Invalid argument"),
    (1024, 300, None),
]


@pytest.mark.parametrize(("cluster_size", "length", "reason"), ROOM)
@pytest.mark.parametrize("way", WAYS)
def test_names_that_are_too_long(
    tmp_path: Path, way: str, cluster_size: int, length: int, reason: str | None
) -> None:
    """QEMU's errno; and the image has the name that it had, of which QEMU only says so."""
    world = World(tmp_path, cluster_size)
    name, before = "y" * length, world.names()
    said = rename(world, way, name)
    if reason is None:
        assert said is None and world.names()["backing-filename"] == name
        assert world.written()["backing-filename"] == name
        return
    prefix = "Could not change backing file to 'NAME': " if way == WAYS[0] else ""
    assert said == prefix + reason
    assert world.names() == before and world.written() == before
    perform(world.machine.graph.close_all())
    check_clean(world.top)
