# SPDX-License-Identifier: MIT
"""Several jobs on one chain of images at the same time, under random schedules with errors.

Which of them can be at the same time is for the op blockers to say: what is refused
does not happen.  Whatever does, guests see what they have written, and in the end
the chain is whole, in the graph and in the images.
"""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from blockcore.job.block_job import BlockJob
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.graph.links import attach
from blockcore.nodes.node import BlockNode
from blockcore.qapi.events import JobStatusChange
from blockcore.qapi.names import JobStatus
from blockcore.rules.job_status import JOB_TRANSITIONS
from job_kinds import FILLER, SIZE, Kind, base_data, image
from job_world import JobWorld, Script, Told
from qcow2_disk import judge
from sim import Sim, add_drive, perform

SEEDS = int(os.environ.get("FAULTLINE_SEEDS", "40")) * 5

CLUSTERS = [{1, 2, 9, 14}, {2, 5}, {0, 5, 8, 15}, {3, 9}]
"""What the images n1 to n4 have, each on the one before; n0 is a disk."""

TOP = len(CLUSTERS)

JOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "stream to the top": ("block-stream", {"device": "vda"}),
    "stream to the top from n2": ("block-stream", {"device": "vda", "base_node": "n2"}),
    "stream to n3 from n1": ("block-stream", {"device": "n3", "base_node": "n1"}),
    "stream to n2": ("block-stream", {"device": "n2"}),
    "stream to n2 from n0": ("block-stream", {"device": "n2", "base_node": "n0"}),
    "commit n1": ("block-commit", {"device": "vda", "top_node": "n1", "base_node": "n0"}),
    "commit n2 to n1": ("block-commit", {"device": "vda", "top_node": "n2", "base_node": "n1"}),
    "commit n3 to n2": ("block-commit", {"device": "vda", "top_node": "n3", "base_node": "n2"}),
    "commit n3 to n1": ("block-commit", {"device": "vda", "top_node": "n3", "base_node": "n1"}),
    "commit the top to n3": ("block-commit", {"device": "vda", "base_node": "n3"}),
    "commit the top to n2": ("block-commit", {"device": "vda", "base_node": "n2"}),
    "mirror": ("blockdev-mirror", {"device": "vda", "target": "dst", "sync": "full"}),
    "mirror of n2": ("blockdev-mirror", {"device": "n2", "target": "dst", "sync": "full"}),
    "backup of n2": ("blockdev-backup", {"device": "n2", "target": "dst", "sync": "full"}),
    "backup": ("blockdev-backup", {"device": "vda", "target": "dst", "sync": "full"}),
    "backup of the top": ("blockdev-backup", {"device": "vda", "target": "dst", "sync": "top"}),
}

POLICIES = ("report", "ignore", "stop", "enospc")


class Chain(JobWorld):
    """The world of these jobs: `live` are those that were there at the same time, at most."""

    def __init__(self, sim: Sim) -> None:
        self.live = 0
        super().__init__(sim, Kind("block-stream", {"device": "n2"}, on_chain=True))

    def _make_chain(self) -> BlockNode:
        node: BlockNode = self._flat("n0", base_data(), read_only=True)
        for number, clusters in enumerate(CLUSTERS, start=1):
            data = image(frozenset(clusters), 40 * number, f"/n{number - 1}")
            above = self._image(f"n{number}", data, read_only=number < TOP)
            attach(above, "backing", node)
            node = above
        return node

    def _make_target(self) -> BlockNode:
        return self._flat("dst", bytes([FILLER]) * SIZE)

    def _status(self, event: JobStatusChange) -> None:
        if event.status is JobStatus.CREATED:
            self.told[event.id] = Told()
        told = self.told[event.id]
        allowed = event.status in JOB_TRANSITIONS[told.status]
        self.require(allowed, f"{event.id}: {event.status} follows {told.status}")
        told.status = event.status

    def _check_ready(self) -> None:
        """Another job may write to the same target."""

    def _step(self) -> None:
        self.live = max(self.live, len(self.machine.jobs))
        for job in self.machine.jobs:
            self.require(job.status is self.told[job.id].status, "the events tell the status")
            resting = not self.drained or job.quiescent() or job.is_cancelled
            self.require(resting, f"{job.id} rests in a drained section")

    def _wanted(self, job: BlockJob, complete: bool, cancel: bool) -> str | None:
        wanted = super()._wanted(job, complete, cancel)
        return "job-complete" if wanted == "block-job-cancel" and complete else wanted

    def _check_graph(self) -> None:
        """Every image says of its backing file what the graph has, and nobody is left in it.

        Or something that shows the same: over a filter of another job, an
        image keeps its name for what was committed (as in QEMU).
        """
        self._check_nodes()
        for name in self.disks:
            node = self.nodes[name]
            assert isinstance(node, Qcow2Node)
            below, said = node.backing, node.header.backing_file
            if below is None or said is None or said == f"/{below.node_name}":
                self.require((below is None) is (said is None), f"{name} is on {said}")
            else:
                same = self.peek(below) == self.peek(self.nodes[said[1:]])
                self.require(same, f"{name} is on {below.node_name}, not on {said}")

    def _check_end(self) -> None:
        waiting = set(self.sim.running) - {"stop on error", "flush after stop"}
        self.require(not waiting, f"{waiting} never end")
        after = self._state()
        for name, was in self.before.items():
            self.require(after[name] == was, f"{name}: {after[name]}, before {was}")
        self._check_graph()
        found = self.peek(self.blk.root)
        block = SIZE // len(self.expected)
        for number, wanted in enumerate(self.expected):
            values = set(found[number * block : (number + 1) * block])
            self.require(len(values) == 1 and values <= wanted, f"block {number}: {values}")
        for name, disk in self.disks.items():
            perform(self.nodes[name].do_close())
            self.require(judge(disk.data) == ([], 0), f"image {name}: {judge(disk.data)}")


def start(world: Chain, name: str, job_id: str) -> tuple[str, dict[str, Any]]:
    """The command of a job, with random options."""
    choice = world.sim.random.choice
    command, arguments = JOBS[name]
    policy = choice(POLICIES)
    two_sided = command.startswith("blockdev")
    policies = ("on-source-error", "on-target-error") if two_sided else ("on-error",)
    return command, {
        "job_id": job_id,
        **arguments,
        **dict.fromkeys(policies, policy),
        "speed": choice([0, 0, 1 << 20, 1 << 22]),
        "auto_finalize": choice([True, True, False]),
        "auto_dismiss": choice([True, True, False]),
    }


def commands(job_id: str) -> Script:
    job, device = {"id": job_id}, {"device": job_id}
    return [
        *(2 * [("job-pause", job)]),
        *(4 * [("job-resume", job)]),
        *(2 * [("job-complete", job)]),
        ("job-finalize", job),
        ("job-dismiss", job),
        ("job-cancel", job),
        ("block-job-cancel", device),
        ("block-job-set-speed", {**device, "speed": 1 << 22}),
        ("block-job-set-speed", {**device, "speed": 0}),
        ("hold the graph", {"steps": 10}),
        ("drain", {"steps": 5}),
        ("stop", {}),
        *(2 * [("cont", {})]),
        ("query-block-jobs", {}),
        ("query-named-block-nodes", {}),
    ]


def play(seed: int) -> Chain:
    """One run, judged."""
    sim = Sim(seed)
    choice, random = sim.random.choice, sim.random.random
    world = Chain(sim)
    number, rate = choice([errno.EIO, errno.ENOSPC]), choice([0.0, 0.0, 0.03, 0.2])
    world.fails = lambda side, disk, what: number * (random() < rate)
    for _ in range(2):
        world.add_guest()
    for job_id in "abc":
        script = [choice(commands(job_id)) for _ in range(6)]
        script.insert(0, start(world, choice(list(JOBS)), job_id))
        world.add_admin(script)
    world.run()
    if random() < 0.1:
        world.quit()
    else:
        world.finish(complete=choice([True, False]), cancel=random() < 0.2)
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_seeds(seed: int) -> None:
    play(seed)


def test_a_drive_on_a_committed_image_is_on_the_base_afterwards() -> None:
    world = Chain(Sim(1))
    other = add_drive(world.machine, world.nodes["n2"], "vdb")
    before = world.peek(other.root)
    command, arguments = JOBS["commit n2 to n1"]
    world.act("commit", world.command(command, job_id="a", **arguments))
    world.run()
    world.run(lambda: not world.machine.jobs)
    assert other.root is world.nodes["n1"] and world.peek(other.root) == before
    assert set(world.machine.graph.nodes) == set(world.nodes)


def test_jobs_are_there_at_the_same_time() -> None:
    assert {play(seed).live for seed in range(20)} >= {1, 2}
