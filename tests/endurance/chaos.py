# SPDX-License-Identifier: MIT
"""Lives of a machine to which everything happens, and a model of what its drives may hold.

    scripts/endure chaos [--lives N] [--seed SEED]

Each life serves what the last one left: guests read, write and hang up without
a word, control clients make trouble of every kind and are cut off, and then it
ends by SIGTERM or `quit`, with jobs and requests under way.  Whatever happens,
every block holds what its guest was told, the images are sound, the log has no
trace of a bug, and nothing hangs.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import nbd

from faultline import CommandError
from live import TIMEOUT_S, Flight, Live, Qmp
from load import BLOCK, LoadGuest, Pending
from qcow2_images import qemu_img

BLOCKS = 1024
SIZE = BLOCKS * BLOCK
GUESTS = 2
"""Of each drive."""

SECONDS = 2.0
"""Of trouble in a life."""

END_S = 20.0
"""Nobody waits longer for an end; it is for hangs, not for speed."""

DRIVES = {"raw": "raw", "flat": "qcow2", "chain": "qcow2"}
"""Names of drives, and the format of their first image."""

CHAIN_MAX = 5
JOBS_MAX = 4


@dataclass
class ChaosGuest(LoadGuest):
    """Comes and goes, mostly without good-bye, until the life is over.

    A write whose answer it did not wait for may be carried out at any time
    before the end: it keeps away from such a block until then.
    """

    export: str = ""
    value: int = 0
    ending: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    unanswered: set[int] = field(default_factory=set)

    def live(self) -> None:
        """Until the life is over, or the machine gone that is `ending`."""
        while not self.over.is_set():
            handle = nbd.NBD()
            try:
                handle.connect_uri(self.machine.uri(self.export))
                self._visit(handle, self.rng.randrange(1, 400))
            except (nbd.Error, OSError) as error:
                if not self.ending.is_set():
                    self.wrong.append(f"guest {self.index} of {self.export}: {error}")
                return

    def _visit(self, handle: nbd.NBD, number: int) -> None:
        """Send so many requests, and hang up on those that are not answered."""
        flight = Flight()
        pending: list[Pending] = []
        try:
            while number and not self.over.is_set():
                if len(pending) < self.depth:
                    number -= 1
                    self.value += 1
                    pending.append(self.send(handle, flight, pending))
                    continue
                flight.poll(0.1)
                pending = self._judged(pending)
        finally:
            pending = self._judged(pending)
            for request in pending:
                if request.kind in ("write", "zero", "trim"):
                    self.unanswered.add(request.block)
                    self.may[request.block] = self.may_hold(request.block) | {request.value}
            hang_up(handle)

    def _judged(self, pending: list[Pending]) -> list[Pending]:
        for p in pending:
            if p.request.outcome is not None:
                self.judge(p)
        return [p for p in pending if p.request.outcome is None]

    def may_hold(self, block: int) -> set[int]:
        return self.may.get(block, {0})

    def send(self, handle: nbd.NBD, flight: Flight, pending: list[Pending]) -> Pending:
        busy = {p.block for p in pending} | self.unanswered
        free = [b for b in range(self.index, self.blocks, self.guests) if b not in busy]
        kinds = ("read", "write", "flush", "zero", "trim")
        kind = self.rng.choices(kinds, (10, 10, 1, 2, 1))[0]
        if kind == "flush" or not free:
            return Pending(flight.send(handle, "flush"), "flush")
        block = self.rng.choice(free)
        offset = block * BLOCK
        if kind == "read":
            return Pending(flight.read(handle, offset, BLOCK), kind, block)
        if kind == "write":
            flags = nbd.CMD_FLAG_FUA if self.rng.random() < 0.05 else 0
            request = flight.write(handle, offset, self.pattern(self.value), flags)
            return Pending(request, kind, block, self.value)
        return Pending(flight.send(handle, kind, BLOCK, offset), kind, block)

    def judge(self, p: Pending) -> None:
        """Remember what the block may hold now."""
        outcome = p.request.outcome
        if outcome not in ("OK", "EIO", "ENOSPC", "ESHUTDOWN", "ENOTCONN"):
            self.wrong.append(f"{p.kind} of block {p.block} ended with {outcome}")
        if p.kind == "read" and outcome == "OK":
            self.check(p.block, p.request.data)
        elif p.kind in ("write", "zero", "trim"):
            certain = outcome == "OK" and p.kind != "trim"
            self.may[p.block] = {p.value} if certain else self.may_hold(p.block) | {p.value}
            if outcome == "ENOTCONN":
                self.unanswered.add(p.block)

    def look(self, handle: nbd.NBD) -> None:
        """Read everything, between two lives: from then on it is certain."""
        self.unanswered.clear()
        for block in range(self.index, self.blocks, self.guests):
            data = bytes(handle.pread(BLOCK, block * BLOCK))
            self.check(block, data)
            found = {value for value in self.may_hold(block) if self.pattern(value) == data}
            self.may[block] = found or self.may_hold(block)


def hang_up(handle: nbd.NBD) -> None:
    """As a client that is killed."""
    with contextlib.suppress(nbd.Error, OSError):
        with socket.socket(fileno=socket.dup(handle.aio_get_fd())) as connection:
            connection.shutdown(socket.SHUT_RDWR)


@dataclass
class Trouble:
    """One control client that does anything it can think of."""

    live: Live
    rng: random.Random
    prefix: str
    counts: Counter[str] = field(default_factory=Counter)
    completing: set[str] = field(default_factory=set)
    number: int = 0

    def run(self, until: float) -> None:
        """Make trouble; at the end, wait only for what changes which images are in use."""
        with self.live.qmp() as qmp:
            while time.monotonic() < until:
                self._step(qmp)
                qmp.take_events()
            qmp("x-fault-clear")
            qmp("cont")
            for drive in DRIVES:
                self._throttle(qmp, drive, 0)
            qmp.wait_for(lambda: self._completed(qmp))

    def _completed(self, qmp: Qmp) -> bool:
        """Whether all jobs are gone that were to complete; they may have failed or stopped."""
        jobs = {job["id"]: job["status"] for job in qmp("query-jobs")}
        for name in self.completing & set(jobs):
            with contextlib.suppress(CommandError):
                if jobs[name] == "paused":
                    qmp("block-job-resume", device=name)
                elif jobs[name] == "ready":
                    qmp("job-complete", id=name)
        return not self.completing & set(jobs)

    def _step(self, qmp: Qmp) -> None:
        steps = {
            self._add_fault: 6,
            self._remove_faults: 3,
            self._stop: 1,
            self._cont: 5,
            self._policy: 1,
            self._snapshot: 2,
            self._job: 4,
            self._steer: 6,
            self._resize: 1,
            self._throttle_some: 1,
            self._reset: 1,
            self._bitmap: 1,
            self._cut_off: 1,
            self._query: 2,
        }
        step = self.rng.choices(list(steps), list(steps.values()))[0]
        self.number += 1
        try:
            step(qmp)
            self.counts[step.__name__.strip("_")] += 1
        except CommandError:
            self.counts["refused"] += 1

    def _drive(self) -> str:
        return self.rng.choice(list(DRIVES))

    def _add_fault(self, qmp: Qmp) -> None:
        nodes = [node["node-name"] for node in qmp("query-named-block-nodes", flat=True)]
        rule: dict[str, Any] = {
            "node-name": self.rng.choice([*DRIVES, *nodes]),
            "iotype": self.rng.choice(["read", "write", "flush", "write-zeroes", "discard"]),
            "errno": self.rng.choice(["EIO", "ENOSPC"]),
            "count": self.rng.randint(1, 10),
            "rate": self.rng.choice([0.1, 1.0]),
        }
        qmp.execute("x-fault-add", rule)

    def _remove_faults(self, qmp: Qmp) -> None:
        qmp("x-fault-clear")

    def _stop(self, qmp: Qmp) -> None:
        qmp("stop")

    def _cont(self, qmp: Qmp) -> None:
        qmp("cont")

    def _reset(self, qmp: Qmp) -> None:
        qmp("system_reset")

    def _policy(self, qmp: Qmp) -> None:
        rerror = self.rng.choice(["report", "stop", "retry"])
        werror = self.rng.choice(["report", "stop", "enospc", "retry"])
        retry = {"retry_interval": 5, "retry_timeout": self.rng.choice([0, 50])}
        qmp("x-drive-set-policy", device=self._drive(), rerror=rerror, werror=werror, **retry)

    def _new_file(self) -> str:
        return str(self.live.directory / f"{self.prefix}-{self.number}.qcow2")

    def _snapshot(self, qmp: Qmp) -> None:
        drive = self._drive()
        if len(chain_of(Path(image_of(qmp, drive)))) < CHAIN_MAX:
            qmp("blockdev-snapshot-sync", device=drive, snapshot_file=self._new_file())

    def _job(self, qmp: Qmp) -> None:
        if len(qmp("query-jobs")) >= JOBS_MAX:
            return
        name, drive = f"{self.prefix}j{self.number}", self._drive()
        speed = self.rng.choice([0, 1 << 20, 8 << 20])
        common = {"device": drive, "job-id": name, "speed": speed}
        kind = self.rng.choice(["block-stream", "block-commit", "drive-mirror", "drive-backup"])
        match kind:
            case "block-commit":
                chain = chain_of(Path(image_of(qmp, drive)))
                if len(chain) > 2 and self.rng.random() < 0.5:
                    common["top"] = str(chain[1])
            case "drive-mirror":
                mode = self.rng.choice(["background", "write-blocking"])
                common |= {"target": self._new_file(), "format": "qcow2", "copy-mode": mode}
                common["sync"] = "full"
            case "drive-backup":
                common |= {"target": self._new_file(), "format": "qcow2", "sync": "full"}
        if kind != "block-commit":
            common["on-source-error" if kind.startswith("drive-") else "on-error"] = "report"
        qmp.execute(kind, common)

    def _steer(self, qmp: Qmp) -> None:
        jobs = qmp("query-jobs")
        if not jobs:
            return
        job = self.rng.choice(jobs)
        name = job["id"]
        match self.rng.choice(["pause", "resume", "cancel", "force", "complete", "complete"]):
            case "pause":
                qmp("job-pause", id=name)
            case "resume":
                qmp("job-resume", id=name)
            case "cancel":
                qmp("block-job-cancel", device=name)
            case "force":
                qmp("block-job-cancel", device=name, force=True)
            case "complete" if job["status"] == "ready":
                self.completing.add(name)
                qmp("job-complete", id=name)

    def _resize(self, qmp: Qmp) -> None:
        qmp("block_resize", device=self._drive(), size=SIZE + self.rng.choice([0, 1, 8]) * 65536)

    def _throttle_some(self, qmp: Qmp) -> None:
        self._throttle(qmp, self._drive(), self.rng.choice([0, 500, 5000]))

    def _throttle(self, qmp: Qmp, drive: str, iops: int) -> None:
        limits = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
        qmp.execute("block_set_io_throttle", {"device": drive, **limits, "iops": iops})

    def _bitmap(self, qmp: Qmp) -> None:
        command = f"block-dirty-bitmap-{self.rng.choice(['add', 'remove', 'clear'])}"
        qmp(command, node=self._drive(), name="b")

    def _query(self, qmp: Qmp) -> None:
        for command in ("query-blockstats", "query-block-jobs", "x-query-requests"):
            qmp(command)

    def _cut_off(self, _qmp: Qmp) -> None:
        """A client that is killed in the middle of a command, or before it has read the answer."""
        request = json.dumps({"execute": "query-block"}).encode()
        with self.live.wire() as other:
            other.send(request[: self.rng.randrange(len(request) + 1)])


def image_of(qmp: Qmp, drive: str) -> str:
    """The file that a drive's topmost image is in."""
    for info in qmp("query-block"):
        if info["device"] == drive:
            return str(info["inserted"]["image"]["filename"])
    raise AssertionError(drive)


def chain_of(image: Path) -> list[Path]:
    """The image and those below it, as their headers have it."""
    command = ["qemu-img", "info", "-U", "--backing-chain", "--output=json", str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [Path(info["filename"]) for info in json.loads(done.stdout)]


class World:
    """The images and the model, from life to life."""

    def __init__(self, directory: Path, seed: str) -> None:
        self.directory = directory
        self.rng = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.images = {name: directory / f"{name}.img" for name in DRIVES}
        for name, image_format in DRIVES.items():
            qemu_img("create", "-q", "-f", image_format, self.images[name], SIZE)
        base = self.images["chain"].rename(directory / "base.img")
        backed = ("-b", base, "-F", "qcow2")
        qemu_img("create", "-q", "-f", "qcow2", *backed, self.images["chain"])
        self.may: dict[tuple[str, int], dict[int, set[int]]] = {}

    def life(self, number: int) -> list[str]:
        """Live once; gives what is wrong."""
        for drive in DRIVES:
            for image in chain_of(self.images[drive]):
                if (checked := check(image)) is not None:
                    return [checked]
        rng = random.Random(self.rng.random())
        log = self.directory / "log"
        with Live(self.directory, *self._keys(), options=("--threads", "16")) as live:
            with self._guests(live, rng) as guests:
                trouble = Trouble(live, rng, f"l{number}")
                trouble.run(time.monotonic() + SECONDS)
                self.counts += trouble.counts
                with live.qmp() as qmp:
                    self.images = {name: Path(image_of(qmp, name)) for name in DRIVES}
                wrong = self._end(live, rng, guests)
        for guest in guests:
            wrong += [f"drive {guest.export}: {what}" for what in guest.wrong]
        if "Traceback" in (text := log.read_text()):
            wrong.append(text)
        log.unlink()
        self._clear_away()
        return wrong

    def _keys(self) -> list[str]:
        policies = "rerror=stop,werror=enospc,discard=unmap"
        return [
            f"drive=id={name},file={image},format={self._format(name)},{policies}"
            for name, image in self.images.items()
        ]

    def _format(self, name: str) -> str:
        return "raw" if self.images[name].name == "raw.img" else "qcow2"

    @contextlib.contextmanager
    def _guests(self, live: Live, rng: random.Random) -> Iterator[list[ChaosGuest]]:
        """Guests that have looked at everything and are at work."""
        guests, ending, over = [], threading.Event(), threading.Event()
        for drive in DRIVES:
            with live.guest(drive) as handle:
                for index in range(GUESTS):
                    guest = ChaosGuest(
                        live,
                        index,
                        GUESTS,
                        BLOCKS,
                        depth=8,
                        rng=random.Random(rng.random()),
                        exact=True,
                        may=self.may.setdefault((drive, index), {}),
                        export=drive,
                        ending=ending,
                        over=over,
                        value=rng.getrandbits(40),
                    )
                    guest.look(handle)
                    guests.append(guest)
        threads = [threading.Thread(target=guest.live) for guest in guests]
        for thread in threads:
            thread.start()
        try:
            yield guests
        finally:
            over.set()
            for thread in threads:
                thread.join(TIMEOUT_S)

    def _end(self, live: Live, rng: random.Random, guests: list[ChaosGuest]) -> list[str]:
        """End it, perhaps stopped, perhaps with guests at work; clean within its time."""
        how = rng.choice(["SIGTERM", "SIGINT", "quit", "SIGTERM while stopped", "SIGTERM alone"])
        self.counts[how] += 1
        guests[0].ending.set()
        with live.qmp() as qmp:
            if how == "SIGTERM while stopped":
                qmp("stop")
            elif how == "SIGTERM alone":
                guests[0].over.set()
            if how == "quit":
                qmp("quit")
            else:
                live.process.send_signal(signal.SIGINT if how == "SIGINT" else signal.SIGTERM)
            try:
                status = live.process.wait(END_S)
            except subprocess.TimeoutExpired:
                live.process.send_signal(signal.SIGKILL)
                return [f"hangs at the end by {how}"]
        return [] if status == 0 else [f"ended by {how} with {status}"]

    def _clear_away(self) -> None:
        """Remove the images that no drive is on."""
        used = {path for name in DRIVES for path in chain_of(self.images[name])}
        for path in self.directory.glob("*.qcow2"):
            if path not in used:
                path.unlink()


def check(image: Path) -> str | None:
    """What qemu-img finds wrong with an image."""
    if image.name == "raw.img":
        return None
    done = subprocess.run(
        ["qemu-img", "check", str(image)], capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else f"{image.name}: {done.stdout}{done.stderr}"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--lives", default=200, show_default=True)
@click.option("--seed", default=None, help="That a run has printed, to do it again.")
def main(lives: int, seed: str | None) -> None:
    """Lead so many lives; end at the first thing that is wrong."""
    seed = seed or str(random.randrange(1 << 32))
    print(f"--seed {seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="faultline-chaos-"))
    world = World(directory, seed)
    for number in range(lives):
        if wrong := world.life(number):
            print(f"life {number}, images in {directory}:", *wrong, sep="\n")
            sys.exit(1)
        if (number + 1) % 20 == 0:
            print(f"{number + 1} lives", flush=True)
    print(f"{lives} lives:", *(f"{count} {what}" for what, count in world.counts.most_common()))
    subprocess.run(["rm", "-r", str(directory)], check=True)


if __name__ == "__main__":
    main(prog_name="scripts/endure chaos")
