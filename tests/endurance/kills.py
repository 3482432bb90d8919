# SPDX-License-Identifier: MIT
"""A server that is killed at a random moment: what was flushed is there, images are sound.

    scripts/endure kills [--kills N] [--seed SEED]

It serves a qcow2 overlay to one guest, or has five drives, each with a job of
its own kind and a guest, in turn.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import click
import nbd

from faultline import Event, MachineEnded
from image_checks import backing_name
from live import TIMEOUT_S, Flight, Live, Qmp, Request

SECTOR = 512
SIZE = 4 << 20
LEAKS_ONLY = 3
"""The exit status of `qemu-img check` that has found nothing worse."""


class Guest:
    """Writes and zeroes at random on one drive of `SIZE` bytes.

    `flushed` is the content at the last flush that was answered; `since` are
    the sectors touched after it, which may have any content.
    """

    def __init__(self, rng: random.Random, handle: nbd.NBD, content: bytes) -> None:
        self.rng = rng
        self.handle = handle
        self.now = bytearray(content)
        self.flushed = content
        self.since: set[int] = set()

    def write(self, flight: Flight, most: int) -> None:
        """Up to `most` requests that do not overlap."""
        busy: set[int] = set()
        for _ in range(self.rng.randrange(1, most + 1)):
            count = self.rng.choice([1, 3, 8, 40, 200])
            first = self.rng.randrange(SIZE // SECTOR - count)
            sectors = set(range(first, first + count))
            if not busy.isdisjoint(sectors):
                continue
            busy |= sectors
            offset, length = first * SECTOR, count * SECTOR
            data = self.rng.choice([bytes(length), *[self.rng.randbytes(length)] * 4])
            if any(data):
                flight.write(self.handle, offset, data)
            else:
                flight.send(self.handle, "zero", length, offset)
            self.now[offset : offset + length] = data
        self.since |= busy

    def has_flushed(self) -> None:
        self.flushed, self.since = bytes(self.now), set()

    def lost(self, content: bytes) -> list[int]:
        """The sectors that are not what they were when they were flushed."""
        return [
            sector
            for sector in range(SIZE // SECTOR)
            if sector not in self.since
            and content[sector * SECTOR : (sector + 1) * SECTOR]
            != self.flushed[sector * SECTOR : (sector + 1) * SECTOR]
        ]


BASE = b"\x5a"
"""What every byte of the overlay's backing image is."""


def kill_alone(directory: Path, cluster_size: int, name: str) -> int:
    """Kill the server of an overlay; gives the flushes before."""
    rng = random.Random(name)
    make_overlay(directory, cluster_size)
    with Live(directory, "drive=id=vda,file=top.qcow2,format=qcow2") as live:
        handle = nbd.NBD()
        handle.connect_uri(live.uri())
        guest = Guest(rng, handle, BASE * SIZE)
        flushes = work_alone(live, guest, rng.randrange(1, 80))
    check_overlay(directory, guest, name)
    return flushes


def work_alone(live: Live, guest: Guest, answers: int) -> int:
    """Write and flush, and kill the server after that many answers; gives the flushes."""
    flight, flushes = Flight(), 0
    while True:
        guest.write(flight, 8)
        while flight.pending:
            answers -= len(flight.poll(1.0))
            if answers <= 0:
                live.stop(signal.SIGKILL)
                return flushes
        flight.land(flight.send(guest.handle, "flush"))
        guest.has_flushed()
        flushes += 1


def make_overlay(directory: Path, cluster_size: int) -> None:
    (directory / "base.img").write_bytes(BASE * SIZE)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw"]
    command += ["-o", f"cluster_size={cluster_size}", "top.qcow2"]
    subprocess.run(command, cwd=directory, check=True)


def check_overlay(directory: Path, guest: Guest, run: str) -> None:
    command = ["qemu-img", "check", "top.qcow2"]
    judged = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert judged.returncode in (0, LEAKS_ONLY), (run, judged.stdout, judged.stderr)
    convert = ["qemu-img", "convert", "-O", "raw", "top.qcow2", "content"]
    subprocess.run(convert, cwd=directory, check=True)
    lost = guest.lost((directory / "content").read_bytes())
    assert not lost, (run, lost[:20])


KINDS = ("stream", "commit", "active", "mirror", "backup")
COPIES = ("mirror", "backup")


class Steward(threading.Thread):
    """Starts jobs, completes what is ready, and looks into the images of what is completed."""

    def __init__(self, qmp: Qmp, directory: Path, rng: random.Random) -> None:
        super().__init__()
        self.qmp = qmp
        self.directory = directory
        self.rng = rng
        self.completed: set[str] = set()
        self.wrong: list[Any] = []
        copy = {"target": "backup-copy.qcow2", "format": "qcow2", "sync": "full"}
        qmp("drive-backup", device="backup", speed=self._speed(), **copy)

    def run(self) -> None:
        with contextlib.suppress(MachineEnded):
            kinds = [kind for kind in KINDS if kind != "backup"]
            for kind in self.rng.sample(kinds, len(kinds)):
                self._start_job(kind)
                for event in self.qmp.take_events():
                    self._look_at(event)
            while True:
                self._look_at(self.qmp.next_event())

    def _speed(self) -> int:
        return self.rng.choice([0, 4 << 20, 16 << 20])

    def _start_job(self, kind: str) -> None:
        options: dict[str, Any] = {"device": kind, "speed": self._speed()}
        if kind == "stream":
            self.qmp("block-stream", **options)
        elif kind == "mirror":
            mode = self.rng.choice(["background", "write-blocking"])
            copy = {"target": "mirror-copy.qcow2", "format": "qcow2", "sync": "full"}
            self.qmp("drive-mirror", copy_mode=mode, **options, **copy)
        else:
            top = {"top": "commit-mid.qcow2"} if kind == "commit" else {}
            self.qmp("block-commit", **options, **top)

    def _look_at(self, event: Event) -> None:
        if event.name == "BLOCK_JOB_READY":
            self.qmp("job-complete", id=job(event))
        elif event.name == "BLOCK_JOB_COMPLETED":
            self._has_completed(event)

    def _has_completed(self, event: Event) -> None:
        kind = job(event)
        self.completed.add(kind)
        if "error" in event.data:
            self.wrong.append(event)
        if kind in ("stream", "commit"):
            below = backing_name(self.directory / f"{kind}-top.qcow2")
            if below != new_name(kind):
                self.wrong.append((event, below))


def job(event: Event) -> str:
    return str(event["device"])


def new_name(kind: str) -> str:
    """What is under the top image when the job is over."""
    return {"stream": "", "commit": "commit-base.qcow2"}.get(kind, f"{kind}-mid.qcow2")


def kill_beside_jobs(directory: Path, cluster_size: int, name: str) -> int:
    """Kill the server of jobs; gives how many of them were completed before."""
    rng = random.Random(name)
    content = {kind: make_chain(directory, kind, cluster_size, rng) for kind in KINDS}
    drives = [f"drive=id={kind},file={kind}-top.qcow2,format=qcow2" for kind in KINDS]
    with Live(directory, *drives) as live, live.qmp() as qmp, contextlib.ExitStack() as stack:
        guests = {}
        for kind in KINDS:
            handle = nbd.NBD()
            handle.connect_uri(live.uri(kind))
            guests[kind] = Guest(rng, handle, content[kind])
        steward = Steward(qmp, directory, random.Random(rng.random()))
        steward.start()
        stack.callback(steward.join, TIMEOUT_S)
        work_beside_jobs(live, list(guests.values()), rng.randrange(1, 400))
    assert not steward.wrong, (name, steward.wrong)
    for kind, guest in guests.items():
        check_chain(directory, kind, guest, content[kind], kind in steward.completed, name)
    return len(steward.completed)


def work_beside_jobs(live: Live, guests: list[Guest], answers: int) -> None:
    """Write and flush, and kill the server after that many answers."""
    flight = Flight()

    def landed() -> bool:
        nonlocal answers
        while flight.pending:
            answers -= len(flight.poll(1.0))
            if answers <= 0:
                live.stop(signal.SIGKILL)
                return False
        return True

    while True:
        for guest in guests:
            guest.write(flight, 5)
        if not landed():
            return
        flushes: list[tuple[Guest, Request]] = [
            (guest, flight.send(guest.handle, "flush")) for guest in guests
        ]
        alive = landed()
        for guest, request in flushes:
            if request.outcome == "OK":
                guest.has_flushed()
        if not alive:
            return


def make_chain(directory: Path, kind: str, cluster_size: int, rng: random.Random) -> bytes:
    """base <- mid <- top, the lower two with data; what a guest sees in it."""
    for copy in COPIES:
        (directory / f"{copy}-copy.qcow2").unlink(missing_ok=True)
    content, below = bytearray(SIZE), ""
    for part in ("base", "mid", "top"):
        name = f"{kind}-{part}.qcow2"
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster_size}"]
        command += ["-b", below, "-F", "qcow2"] if below else []
        subprocess.run([*command, name, str(SIZE)], cwd=directory, check=True)
        below = name
        if part == "top":
            break
        writes = []
        for _ in range(6):
            offset, length = rng.randrange(60) * 65536, rng.randrange(1, 5) * 65536
            length = min(length, SIZE - offset)
            pattern = rng.randrange(1, 255)
            content[offset : offset + length] = bytes([pattern]) * length
            writes += ["-c", f"write -P {pattern} {offset} {length}"]
        command = ["qemu-io", "-t", "unsafe", "-f", "qcow2", *writes, name]
        subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)
    return bytes(content)


def check_chain(
    directory: Path, kind: str, guest: Guest, before: bytes, completed: bool, run: str
) -> None:
    names = [f"{kind}-{part}.qcow2" for part in ("base", "mid", "top")]
    if kind == "backup" or (directory / f"{kind}-copy.qcow2").exists():
        names.append(f"{kind}-copy.qcow2")
    for name in names:
        command = ["qemu-img", "check", name]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        assert done.returncode in (0, LEAKS_ONLY), (run, name, done.stdout, done.stderr)
    below = backing_name(directory / f"{kind}-top.qcow2")
    assert below in (f"{kind}-mid.qcow2", new_name(kind)), (run, kind, below)
    after = {"active": f"{kind}-base.qcow2", "mirror": f"{kind}-copy.qcow2"}.get(kind)
    lost = None
    if after is None or not completed:
        lost = guest.lost(content(directory, f"{kind}-top.qcow2"))
    if after is not None and lost != []:
        lost = guest.lost(content(directory, after))
    assert not lost, (run, kind, completed, lost)
    if kind == "backup" and completed:
        assert content(directory, f"{kind}-copy.qcow2") == before, run


def content(directory: Path, name: str) -> bytes:
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", name, "content"]
    subprocess.run(command, cwd=directory, check=True)
    return (directory / "content").read_bytes()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kills", default=200, show_default=True)
@click.option("--seed", default=None, help="That a run has printed, to do it again.")
def main(kills: int, seed: str | None) -> None:
    """Kill so many servers; end at the first that has lost or damaged something."""
    seed = seed or str(random.randrange(1 << 32))
    print(f"--seed {seed}", flush=True)
    flushes = completed = 0
    for number in range(kills):
        with tempfile.TemporaryDirectory(prefix="faultline-kills-") as directory:
            cluster_size = random.Random(f"{seed}/{number}").choice([512, 4096, 65536])
            name = f"{seed}/{cluster_size}/{number}"
            if number % 2:
                completed += kill_beside_jobs(Path(directory), max(cluster_size, 4096), name)
            else:
                flushes += kill_alone(Path(directory), cluster_size, name)
    print(f"{kills} kills: {flushes} flushes and {completed} jobs were completed before")


if __name__ == "__main__":
    main(prog_name="scripts/endure kills")
