# SPDX-License-Identifier: MIT
"""A world with a job in it: images on simulated disks, guests, administrators, and a witness.

The drive of most kinds of job is a chain `top` over `mid` over `base`, or a disk
without a format, `src`; `dst` is what is mirrored or backed up to.  Every
block of `BLOCK` bytes is filled with one value, so that a model of what the guest
may see is a set of values for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from blockcore.drive.block_backend import BlockBackend
from blockcore.job.block_job import BlockJob
from blockcore.jobs.mirror.job import Mirror
from blockcore.jobs.mirror.work import MirrorWork
from blockcore.machine.graph_changes import changing_graph
from blockcore.nodes.definitions.options import BlockdevOptionsFile, BlockdevOptionsQcow2
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.drivers.qcow2.settings import Qcow2Settings
from blockcore.nodes.graph.links import attach
from blockcore.nodes.node import BlockNode
from blockcore.qapi.events import (
    BlockIoError,
    BlockJobCancelled,
    BlockJobCompleted,
    BlockJobError,
    BlockJobPending,
    BlockJobReady,
    Event,
    JobStatusChange,
)
from blockcore.qapi.names import (
    BlockDeviceIoStatus,
    BlockErrorAction,
    DeviceErrorAction,
    JobStatus,
    QmpError,
    RunState,
    ShutdownCause,
)
from blockcore.rules.job_status import JOB_TRANSITIONS
from job_kinds import (
    BITMAP,
    BLOCK,
    CLUSTER,
    COPY,
    FILLER,
    IN_MID,
    IN_TOP,
    SIZE,
    Flat,
    Kind,
    base_data,
    image,
)
from qcow2_disk import Disk, judge
from qcow2_images import options
from sim import Sim, add_drive, execute, new_machine, pause, perform

DISTURBANCES = ("hold the graph", "drain")
"""No commands: what others do that a job has to wait for, for some `steps`."""

TOGETHER = "small parts together"
"""The name of a machine whose mirrors copy them so."""

Script = list[tuple[str, dict[str, Any]]]
"""Commands with their arguments."""


def mirror_work(job: BlockJob) -> MirrorWork | None:
    """The work of a mirror; None if the job is of another kind."""
    return job.driver.work if isinstance(job.driver, Mirror) else None


def will_complete(job: BlockJob) -> bool:
    """Whether a mirror has been told to complete."""
    work = mirror_work(job)
    return work is not None and work.should_complete


@dataclass
class Told:
    """What events have said of one job."""

    status: JobStatus = JobStatus.UNDEFINED
    errors: list[BlockJobError] = field(default_factory=list)
    ends: list[Event] = field(default_factory=list)
    stopped: bool = False
    """An error has stopped it, and nobody has let it go on since."""
    ready: int = 0
    pending: int = 0
    seen: list[str] = field(default_factory=list)


class JobWorld:
    """One machine, one drive, one kind of job; `start_job`, `run`, `finish`.

    `fails` gets the side, the disk's name and the kind of every I/O, and gives
    its errno, or 0.  Unless they are `owned` by the monitor, nodes go when
    nobody uses them any more.
    """

    def __init__(
        self, sim: Sim, kind: Kind, werror: str = "report", *, owned: bool = True
    ) -> None:
        self.sim = sim
        self.owned = owned
        self.nodes: dict[str, BlockNode] = {}
        self.kind = kind
        self.machine = new_machine(sim)
        self.machine.qemu = sim.release
        self.machine.job_error_check_modern = True
        self.machine.name = TOGETHER if kind.together else None
        self.fails: Callable[[str, str, str], int] = lambda side, disk, what: 0
        self.io_count: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.told: dict[str, Told] = {}
        self.beside: set[str] = set()
        """Jobs that have nothing to do with the drive, and are not watched."""
        self.point = b""
        self.to_copy: set[int] = set()
        self.busy: list[tuple[int, int]] = []
        """Blocks that guests are changing, each from the first to before the last."""
        self.ignored = 0
        self.mid_failed = False
        self.drained = 0
        self.resets = 0
        self.actors: set[str] = set()
        self.guests: list[Guest] = []
        self.disks: dict[str, Disk] = {}
        self._peeking = False
        root = self._make_chain() if kind.on_chain else self._flat("src", base_data())
        self.source = root
        rerror = "stop" if werror in ("stop", "enospc") else "report"
        self.new_root = root
        self.blk = add_drive(self.machine, root, "vda", rerror, werror)
        self.target = self._make_target()
        if kind.arguments.get("bitmap"):
            sim.start("bitmap", self._make_bitmap(), now=True)
        self.machine.graph.refresh_filenames()
        self.expected = [{value} for value in self.peek(root)[::BLOCK]]
        self.before = self._state()
        self.machine.listeners.append(self._event)
        sim.checks.append(self._step)

    def _flat(self, name: str, data: bytes, *, read_only: bool = False) -> Flat:
        make = self._flat_class(name)
        node = make(options(name, read_only=read_only), self.machine, len(data))
        node.on_io = partial(self._on_io, name)
        node.vague = self.kind.vague
        node.step = SIZE if self.kind.together else CLUSTER
        node.asks_slowly = self.kind.together
        node.data[:] = data
        node.stable = data
        node.definition = BlockdevOptionsFile(driver="file", filename=f"/{name}")
        self._own(node)
        return node

    def _flat_class(self, name: str) -> type[Flat]:
        """What a disk of that name is."""
        return Flat

    @property
    def jobs(self) -> list[BlockJob]:
        """Those of the machine that are watched."""
        return [job for job in self.machine.jobs if job.id not in self.beside]

    def _own(self, node: BlockNode) -> None:
        self.machine.graph.nodes[node.node_name] = self.nodes[node.node_name] = node
        node.monitor_owned = self.owned or node.node_name == "dst"

    def _image(self, name: str, data: bytes, *, read_only: bool = False) -> Qcow2Node:
        machine = self.machine
        disk = Disk(data, machine, partial(self._on_io, f"{name}-file"))
        disk.node_name = f"{name}-file"
        disk.definition = BlockdevOptionsFile(driver="file", filename=f"/{name}")
        node = Qcow2Node(options(name, read_only=read_only), machine, disk, Qcow2Settings())
        node.definition = BlockdevOptionsQcow2(driver="qcow2", file=disk.node_name)
        disk.parents.append(node)
        self._peeking = True
        perform(node.do_open())
        self._peeking = False
        self.disks[name] = disk
        self._own(disk)
        self._own(node)
        return node

    def _make_chain(self) -> BlockNode:
        base = self._flat("base", base_data()[: self.kind.base_size], read_only=True)
        mid = self._image("mid", image(IN_MID, 50, "/base"), read_only=True)
        top = self._image("top", image(IN_TOP, 100, "/mid"))
        attach(mid, "backing", base)
        attach(top, "backing", mid)
        return top

    def _make_target(self) -> BlockNode:
        if not self.kind.arguments.get("target"):
            return self.nodes["base"]
        if self.kind.to_image:
            return self._image("dst", image(frozenset(), 0, self.kind.over))
        return self._flat("dst", bytes([FILLER]) * SIZE)

    async def _make_bitmap(self) -> None:
        await execute(
            self.machine, "block-dirty-bitmap-add", node="src", name="b", granularity=COPY
        )
        for bitmap in self.source.bitmaps:
            for offset, length in BITMAP:
                bitmap.set(offset, length)

    def _on_io(self, disk: str, what: str) -> None:
        if self._peeking or what == "truncate":
            return
        side = self.kind.side(disk, what)
        self.io_count[side] += 1
        number = self.fails(side, disk, what)
        count = self.io_count[side]
        self.sim.note(f"{disk}: {what} ({side} {count}){' fails' * bool(number)}")
        if number:
            self.mid_failed |= disk == "mid-file"
            if self.job_works():
                self.failures[disk] += 1
            raise OSError(number, "injected")

    def job_works(self) -> bool:
        """Whether the job's policies are asked about errors now."""
        working = (JobStatus.RUNNING, JobStatus.READY)
        return any(job.status in working for job in self.jobs)

    def peek(self, node: BlockNode) -> bytes:
        """What a node shows; nothing is under way there, and nothing fails."""
        data = memoryview(bytearray(node.size))
        self._peeking = True
        try:
            perform(node.pread(0, data))
        finally:
            self._peeking = False
        return bytes(data)

    def require(self, truth: bool, rule: str) -> None:
        if not truth:
            raise AssertionError(f"{rule}\n{self.sim.story()}")

    def start_job(self, policy: str, **more: Any) -> None:
        """Start the job by its command; `policy` is that of both sides."""
        policies = dict.fromkeys(self.kind.policies, policy)
        arguments = {"job_id": "job", **self.kind.arguments, **policies, **more}
        self.act("the start", self.command(self.kind.command, **arguments))

    def act(self, name: str, coro: Any) -> None:
        """Start an actor that has to come to its end while the job goes on."""
        self.actors.add(name)

        async def until_end() -> None:
            await coro
            self.actors.discard(name)

        self.sim.start(name, until_end())

    def add_admin(self, script: Script) -> None:
        self.act(f"admin {len(self.actors)}", self._administrate(script))

    async def _administrate(self, script: Script) -> None:
        for command, arguments in script:
            await pause()
            await self.command(command, **arguments)

    async def command(self, name: str, /, **arguments: Any) -> Any:
        self.sim.note(f"-> {name} {arguments}")
        if name == "cont" or name.endswith(("-cancel", "-resume")):
            self.resets += 1
        try:
            run = self._disturb if name in DISTURBANCES else partial(execute, self.machine)
            result = await run(name, **arguments)
            if name == "block-job-change":
                # From now on it is the other kind of mirror.
                changed = {"copy_mode": arguments["copy_mode"]}
                self.kind = replace(self.kind, arguments=self.kind.arguments | changed)
        except QmpError as exc:
            result = exc.desc
        self.sim.note(f"{name}: {str(result)[:100]}")
        return result

    async def _disturb(self, what: str, steps: int) -> Any:
        """Keep others from changing the graph, or from everything."""
        machine = self.machine
        changing = changing_graph(machine, *machine.graph.nodes)
        async with machine.all_drained() if what == "drain" else changing:
            self.drained += what == "drain"
            for _ in range(steps):
                await pause()
            self.drained -= what == "drain"

    def quit(self) -> None:
        """Quit in the middle of everything: all jobs end before the process does."""
        self.resets += 1
        self.machine.quit(ShutdownCause.HOST_QMP_QUIT)
        self.sim.lock.poke()
        self.run(lambda: not self.machine.jobs)
        self.require(not self.machine.jobs, "all jobs end")
        self.sim.run()
        for told in self.told.values():
            self.require(told.status is JobStatus.NULL, "the job is null")

    def add_guest(self, length: int = 6) -> None:
        number = len(self.guests)
        guest = Guest(self, f"guest {number}", number * 16 + self.sim.random.randrange(12))
        self.sim.start(guest.name, guest.run(length))

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Go on until all actors have done what they were to do, or so."""
        self.sim.run(until or (lambda: not self.actors))

    def finish(self, *, complete: bool = True, cancel: bool = False) -> None:
        """Repair everything, bring all jobs to their ends, and look at what is left.

        `complete`: ready jobs are completed, not cancelled; `cancel`: all are cancelled.
        """
        self.require(not self.actors, f"{self.actors} never end")
        self.sim.be_orderly()
        self.fails = lambda side, disk, what: 0
        for _ in range(20 * max(1, len(self.machine.jobs))):
            self._do("cont")
            self.run(lambda: not self.machine.jobs or self._next(complete, cancel) is not None)
            if not self.machine.jobs:
                break
            wanted = self._next(complete, cancel)
            self.require(wanted is not None, "the job hangs")
            assert wanted is not None
            name, job = wanted
            self._do(name, **{"device" if name.startswith("block-") else "id": job.id})
        self.sim.run()
        self.require(not self.machine.jobs, "the job never ends")
        self._check_end()

    def _do(self, name: str, **arguments: Any) -> None:
        self.act(name, self.command(name, **arguments))
        self.run()
        self.require(not self.actors, f"{name} never ends")

    def _next(self, complete: bool, cancel: bool) -> tuple[str, BlockJob] | None:
        """What has to be done for a job to come to its end; None if all do so by themselves."""
        for job in self.machine.jobs:
            if (name := self._wanted(job, complete, cancel)) is not None:
                return name, job
        return None

    def _wanted(self, job: BlockJob, complete: bool, cancel: bool) -> str | None:
        moving = job.status not in (JobStatus.WAITING, JobStatus.ABORTING)
        if job.status is JobStatus.CONCLUDED:
            return None if job.auto_dismiss else "job-dismiss"
        if cancel and moving and not job.is_cancelled:
            return "job-cancel"
        if job.status is JobStatus.PENDING:
            waits = not job.auto_finalize and not job.txn.finalizing and not job.is_cancelled
            return "job-finalize" if waits else None
        if job.user_paused and job.status in (JobStatus.PAUSED, JobStatus.STANDBY):
            return "job-resume"
        if job.status is JobStatus.READY and not job.cancel_requested:
            if not will_complete(job):
                may = complete and self.kind.pivots
                return "job-complete" if may else "block-job-cancel"
        none = self.kind.command == "blockdev-backup" and self.kind.sync == "none"
        idle = none and job.status is JobStatus.RUNNING and not job.is_cancelled
        return "job-cancel" if idle else None

    def _event(self, event: Event, now_ns: int) -> None:
        self.sim.note(f"<- {event}")
        if {getattr(event, "device", None), getattr(event, "id", None)} & self.beside:
            return
        match event:
            case JobStatusChange():
                self._status(event)
            case BlockJobError():
                self._job_error(event)
            case BlockJobReady():
                told = self.told[event.device]
                told.ready += 1
                self.require(told.status is JobStatus.READY and told.ready == 1, "READY once")
                self._check_ready()
            case BlockJobPending():
                told = self.told[event.id]
                told.pending += 1
                self.require(told.status is JobStatus.PENDING and told.pending == 1, "PENDING once")
            case BlockJobCompleted() | BlockJobCancelled():
                told = self.told[event.device]
                told.ends.append(event)
                fails = isinstance(event, BlockJobCancelled) or event.error is not None
                last = JobStatus.ABORTING if fails else JobStatus.PENDING
                self.require(told.status is last, f"the end comes when it is {last}")
                if not fails and self.kind.command == "block-commit":
                    base = self.nodes["base"]
                    assert isinstance(base, Flat)
                    self.require(base.stable == base.data, "what was committed is stable")
            case BlockIoError():
                self.require(event.node_name == self.blk.root.node_name, "the drive's node")
                self.ignored += event.action is DeviceErrorAction.IGNORE

    def _status(self, event: JobStatusChange) -> None:
        new = event.status
        if new is JobStatus.CREATED:
            self.require(event.id not in self.told or self._is_over(event.id), "one job of an id")
            self.told[event.id] = Told()
            self.point, self.to_copy = self.peek(self.source), self._to_copy()
        told = self.told[event.id]
        self.require(new in JOB_TRANSITIONS[told.status], f"{new} follows {told.status}")
        if new is JobStatus.CONCLUDED:
            self.require(len(told.ends) == ("running" in told.seen), "one end, if it has begun")
        if new is JobStatus.WAITING:
            self._check_copy()
            job = self.jobs[0]
            self.new_root = self.source
            if will_complete(job):
                self.new_root = self.target
        told.status = new
        told.seen.append(str(new))

    def _is_over(self, job_id: str) -> bool:
        return self.told[job_id].status is JobStatus.NULL

    def _job_error(self, event: BlockJobError) -> None:
        told = self.told[event.device]
        told.errors.append(event)
        late = (JobStatus.PAUSED, JobStatus.STANDBY)
        blocking = self.kind.writes_both
        working = told.status in (JobStatus.RUNNING, JobStatus.READY)
        self.require(working or (blocking and told.status in late), "errors of a job that works")
        if event.action is BlockErrorAction.STOP:
            told.stopped = True
            # To cancel a job, as quitting does, is to let it go on.
            self.resets = int(self.machine.quit_requested)

    def _step(self) -> None:
        for job in self.jobs:
            told = self.told[job.id]
            self.require(job.status is told.status, "the events tell the status")
            self.require(not job.user_paused or job.should_pause, "paused by a user")
            ok = job.iostatus is BlockDeviceIoStatus.OK
            if told.stopped and ok:
                self.require(self.resets > 0, "nobody resets an io-status unasked")
                told.stopped = False
            self.require(told.stopped or ok, "an io-status without an error that stopped the job")
            resting = not self.drained or job.quiescent() or job.is_cancelled
            self.require(resting, "jobs rest in a drained section")
        source, target = self.source, self.target
        if self.jobs and isinstance(source, Flat) and isinstance(target, Flat):
            job = self.jobs[0]
            if (work := mirror_work(job)) is not None:
                self._check_clean(job, work, source.data, target.data)
            elif self.kind.sync in ("full", "none"):
                self._check_saved(source.data, target.data)

    def _check_ready(self) -> None:
        if isinstance(self.target, Flat) and not self.kind.writes_both:
            self.require(self.target.stable == self.target.data, "what is READY is stable")

    def _check_saved(self, source: bytearray, target: bytearray) -> None:
        """What guests have overwritten was saved before."""
        over = (JobStatus.ABORTING, JobStatus.CONCLUDED, JobStatus.NULL)
        if source == self.point or any(told.status in over for told in self.told.values()):
            return
        # A cancelled backup lets guests go on without it.
        if any(job.txn.finalizing or job.is_cancelled for job in self.machine.jobs):
            return
        for at in range(0, SIZE, COPY):
            part = slice(at, at + COPY)
            if source[part] != self.point[part]:
                self.require(target[part] == self.point[part], f"{at:#x} was saved")

    def _check_clean(
        self, job: BlockJob, work: MirrorWork, source: bytearray, target: bytearray
    ) -> None:
        """What a mirror does not count as dirty, and nobody is busy with, is the same."""
        active, step = work.active, work.bitmap.granularity
        over = job.is_completed or job.is_cancelled or work.failure is not None
        if active is None or source == target or over:
            return
        copier = work.copier
        under_way = [(op.offset, op.end) for op in copier.ops]
        under_way += [(first * BLOCK, last * BLOCK) for first, last in self.busy]
        busy = {n for begin, end in under_way for n in range(begin // step, -(-end // step))}
        for at in range(0, SIZE, step):
            found = source[at : at + step]
            if found == target[at : at + step] or at // step in busy or work.bitmap.get(at):
                continue
            written = found != self.point[at : at + step]
            self.require(not (written or self.kind.pivots), f"{at:#x} is clean")

    def _check_copy(self) -> None:
        """The job's own work is done, without an error."""
        if self.kind.command == "blockdev-backup":
            self._check_backup()
        elif self.kind.pivots or self.kind.command == "blockdev-mirror":
            self._check_mirror()

    def _check_mirror(self) -> None:
        progress = self.jobs[0].progress
        self.require(progress.current == progress.total, f"all is counted: {progress}")
        source, target = self.peek(self.source), self.peek(self.target)
        for at in range(0, SIZE, BLOCK):
            part = slice(at, at + BLOCK)
            asked = self.kind.pivots or at // CLUSTER in self.to_copy
            asked |= source[part] != self.point[part]
            asked |= self.kind.over is not None and self._is_in_target(at)
            same = target[part] == source[part]
            self.require(same or not asked, f"the mirror has converged at {at:#x}")

    def _check_backup(self) -> None:
        filler = bytes(SIZE) if self.kind.to_image else bytes([FILLER]) * SIZE
        found = self.peek(self.target)
        for at in range(0, SIZE, COPY):
            part = slice(at, at + COPY)
            wanted = self.point[part] if at // COPY in self.to_copy else filler[part]
            if found[part] != wanted:
                told = f"the moment is kept at {at:#x}: {set(found[part])}, not {set(wanted)}"
                self.require(False, told)

    def _to_copy(self) -> set[int]:
        """The numbers of the clusters that the job is to copy, if it begins now.

        A mirror's are the images', a backup's its own.
        """
        if self.kind.sync == "top":
            self._peeking = True
            offsets = [at for at in range(0, SIZE, CLUSTER) if self._is_in_source(at)]
            self._peeking = False
        elif self.kind.sync == "bitmap":
            bitmap = self.source.bitmaps.find("b")
            offsets = [at for at in range(0, SIZE, COPY) if bitmap.get(at)]
        else:
            offsets = list(range(0, SIZE, COPY)) if self.kind.sync == "full" else []
        cluster = COPY if self.kind.command == "blockdev-backup" else CLUSTER
        return {at // cluster for at in offsets}

    def _is_in_source(self, offset: int) -> bool:
        allocated: bool = perform(self.source.is_allocated(offset, CLUSTER))[0]
        return allocated

    def _is_in_target(self, offset: int) -> bool:
        """Whether the target does not get it from below, once it can."""
        self._peeking = True
        allocated: bool = perform(self.target.is_allocated(offset, BLOCK))[0]
        self._peeking = False
        return allocated

    def succeeded(self) -> bool:
        """Whether the job has ended well (so far as it has ended)."""
        end = self.told["job"].ends[-1] if "job" in self.told and self.told["job"].ends else None
        return isinstance(end, BlockJobCompleted) and end.error is None

    def job_failed(self) -> bool:
        """Whether the job has failed, or was cancelled before it could end well."""
        return "job" in self.told and JobStatus.ABORTING in self.told["job"].seen

    def _state(self) -> dict[str, Any]:
        nodes = self.machine.graph.nodes.values()
        return {
            "unknown nodes": [node.node_name for node in nodes if node not in self.nodes.values()],
            "frozen": [node.node_name for node in nodes if node.frozen],
            "users": sorted(
                f"{node.node_name} by {parent}"
                for node in nodes
                for parent in node.parents
                if not isinstance(parent, BlockNode | BlockBackend)
            ),
            "blocked": sorted(
                f"{node.node_name} by {owner}"
                for node in nodes
                for entries in node.op_blockers._blockers.values()
                for owner, _ in entries
                if not isinstance(owner, BlockNode)
            ),
            "bitmaps": sorted(
                f"{node.node_name} {bitmap.name} {bitmap.busy} {bitmap.enabled}"
                for node in nodes
                for bitmap in node.bitmaps
            ),
            "drains": [*self.machine.drains, self.blk._quiesced],
            "tasks": [
                routine
                for queue in self.sim.lock._waiting.values()
                for routine in queue
                if routine not in self.sim.running.values()
            ],
            "changing": self.machine.changing.taken,
        }

    def _check_end(self) -> None:
        """No job is there any more: what is left is what there was."""
        waiting = set(self.sim.running) - {"stop on error", "flush after stop"}
        self.require(not waiting, f"{waiting} never end")
        self.require(self.machine.vm.state is RunState.RUNNING, "running")
        after = self._state()
        for name, was in self.before.items():
            self.require(after[name] == was, f"{name}: {after[name]}, before {was}")
        for told in self.told.values():
            self.require(told.status is JobStatus.NULL, "the job is null")
        self._check_graph()
        if self.kind.arguments.get("bitmap"):
            self._check_bitmap()
        found = self.peek(self.blk.root)
        for number, wanted in enumerate(self.expected):
            block = found[number * BLOCK : (number + 1) * BLOCK]
            if block[0] not in wanted or block != bytes(block[:1]) * BLOCK:
                self.require(False, f"block {number}: {set(block)}, not {wanted}")
        for name, disk in self.disks.items():
            node = self.nodes[name]
            if not node.closed:
                perform(node.do_close())
            said = judge(disk.data)
            self.require(said == ([], 0), f"image {name}: {said}")

    def _check_graph(self) -> None:
        nodes, well = self.nodes, self.succeeded()
        self._check_nodes()
        if self.kind.on_chain and self.source in self.machine.graph.nodes.values():
            wanted: dict[str, str | None] = {"top": "mid", "mid": "base"}
            if well:
                wanted |= dict(self.kind.rebased)
            for name, below in wanted.items():
                node = nodes[name]
                if node.closed:
                    continue
                assert isinstance(node, Qcow2Node)
                backing = None if node.backing is None else node.backing.node_name
                self.require(backing == below, f"{name} is on {backing}, not on {below}")
                said = node.header.backing_file
                self.require(said == (below and f"/{below}"), f"{name} says {said}")
            self._check_read_only()
        root = self.new_root if well else self.source
        self.require(self.blk.root is root, f"the drive is on {root.node_name}")

    def _check_read_only(self) -> None:
        """What was made writable for the job is as before, as far as QEMU sees to it."""
        qemu, kind = self.machine.qemu, self.kind
        # An image that cannot be flushed cannot become read-only again.
        if kind.command != "block-stream" or qemu.streams_restore_read_only:
            self.require(self.nodes["mid"].read_only or self.mid_failed, "mid is read-only")
        if kind.command != "block-commit" or not kind.pivots:
            self.require(self.nodes["base"].read_only, "base is read-only")
        elif qemu.failed_commits_restore_base and self.job_failed():
            writable = not self.nodes["base"].read_only
            self.require(not writable or bool(self.failures["base-file"]), "base is read-only")

    def _check_nodes(self) -> None:
        """Those that somebody uses, or the monitor owns, are there and open; others are closed."""
        graph = self.machine.graph
        wanted = set(graph.subtree(self.blk.root))
        for node in self.nodes.values():
            if node.monitor_owned:
                wanted |= set(graph.subtree(node))
        for node in self.nodes.values():
            there = graph.nodes.get(node.node_name) is node and not node.closed
            self.require(there == (node in wanted), f"{node.node_name} is there: {there}")

    def _check_bitmap(self) -> None:
        """What is to be copied the next time: what this job has not, and what was written since."""
        bitmap, mode = self.source.bitmaps.find("b"), self.kind.arguments["bitmap_mode"]
        source, target = self.peek(self.source), self.peek(self.target)
        forgets = mode != "never" if self.succeeded() else mode == "always"
        untouched = set(range(SIZE // BLOCK))
        for guest in self.guests:
            untouched -= set(range(guest.first, guest.first + 4))
        for number in range(SIZE // COPY):
            part = slice(number * COPY, (number + 1) * COPY)
            dirty, asked = bitmap.get(part.start), number in self.to_copy
            if self.told:
                written = source[part] != self.point[part]
                copied = target[part] == self.point[part]
                self.require(dirty or not written, f"{part.start:#x} was written")
                kept = asked and not (forgets and copied)
                self.require(dirty or not kept, f"{part.start:#x} is to be copied again")
                alone = untouched.issuperset(range(part.start // BLOCK, part.stop // BLOCK))
                wrong = dirty and alone and (forgets and copied or not asked)
                self.require(not wrong, f"{part.start:#x} is not to be copied again")


class Guest:
    """Reads and writes blocks of its own, from `first` on."""

    def __init__(self, world: JobWorld, name: str, first: int) -> None:
        self.world = world
        self.name = name
        self.first = first
        self.written = 0
        world.guests.append(self)

    async def run(self, length: int) -> None:
        choice, randrange = self.world.sim.random.choice, self.world.sim.random.randrange
        methods = [self.read, self.write, self.write, self.zero, self.discard]
        for _ in range(length):
            method = choice(methods)
            block = randrange(4)
            await method(self.first + block, randrange(1, 5 - block))
            await pause()
            if not randrange(6):
                await self._request("flush", self.world.blk.flush())

    async def read(self, block: int, count: int) -> None:
        buf = memoryview(bytearray(count * BLOCK))
        what = f"read {block}+{count}"
        if not await self._request(what, self.world.blk.pread(block * BLOCK, buf)):
            return
        for index in range(count):
            values = set(buf[index * BLOCK : (index + 1) * BLOCK])
            wanted = self.world.expected[block + index]
            fits = len(values) == 1 and values <= wanted
            self.world.require(fits, f"{self.name}: {what}: {values}, not {wanted}")
            self.world.expected[block + index] = values

    async def write(self, block: int, count: int) -> None:
        self.written += 1
        value = 200 + (self.first + self.written) % 30
        buf = memoryview(bytes([value]) * (count * BLOCK))
        self._may_be(block, count, value)
        what = f"write {block}+{count} {value}"
        if await self._request(what, self.world.blk.pwrite(block * BLOCK, buf), block, count):
            self._is(block, count, value)

    async def zero(self, block: int, count: int) -> None:
        self._may_be(block, count, 0)
        coro = self.world.blk.zero(block * BLOCK, count * BLOCK, may_unmap=True)
        if await self._request(f"zero {block}+{count}", coro, block, count):
            self._is(block, count, 0)

    async def discard(self, block: int, count: int) -> None:
        """What is discarded may be zero afterwards, or as it was."""
        self._may_be(block, count, 0)
        coro = self.world.blk.discard(block * BLOCK, count * BLOCK)
        await self._request(f"discard {block}+{count}", coro, block, count)

    def _may_be(self, block: int, count: int, value: int) -> None:
        for index in range(block, block + count):
            self.world.expected[index] = self.world.expected[index] | {value}

    def _is(self, block: int, count: int, value: int) -> None:
        for index in range(block, block + count):
            self.world.expected[index] = {value}

    async def _request(self, what: str, coro: Any, block: int = 0, count: int = 0) -> bool:
        """Carry out a request; False if it has failed, or an error was ignored meanwhile."""
        world, ignored, busy = self.world, self.world.ignored, (block, block + count)
        world.sim.note(f"{self.name}: {what}")
        world.busy.append(busy)
        try:
            await coro
        except OSError as exc:
            world.sim.note(f"{self.name}: {what}: {exc.strerror}")
            return False
        finally:
            world.busy.remove(busy)
        world.sim.note(f"{self.name}: {what}: done")
        return world.ignored == ignored
