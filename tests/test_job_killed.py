"""A server that is killed at a random moment of running jobs: images are sound, nothing is lost.

Every machine has five drives, each with a job of its own kind and a guest
that writes and flushes.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import nbd
import pytest
from beside_qemu import backing_name
from killed import LEAKS_ONLY, SIZE, Guest
from live import TIMEOUT_S, Flight, Live, Qmp, Request

RUNS = int(os.environ.get("FAULTLINE_JOB_KILLS", "6"))
SEED = int(os.environ.get("FAULTLINE_JOB_KILLS_SEED", "0"))

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
        with contextlib.suppress(EOFError, ConnectionError):
            kinds = [kind for kind in KINDS if kind != "backup"]
            for kind in self.rng.sample(kinds, len(kinds)):
                self._start_job(kind)
                self._look_at_events()
            while True:
                self.qmp.events.append(self.qmp.receive())
                self._look_at_events()

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

    def _look_at_events(self) -> None:
        while self.qmp.events:
            event = self.qmp.events.pop(0)
            if event["event"] == "BLOCK_JOB_READY":
                self.qmp("job-complete", id=job(event))
            elif event["event"] == "BLOCK_JOB_COMPLETED":
                self._has_completed(event)

    def _has_completed(self, event: dict[str, Any]) -> None:
        kind = job(event)
        self.completed.add(kind)
        if "error" in event["data"]:
            self.wrong.append(event)
        if kind in ("stream", "commit"):
            below = backing_name(self.directory / f"{kind}-top.qcow2")
            if below != new_name(kind):
                self.wrong.append((event, below))


def job(event: dict[str, Any]) -> str:
    return str(event["data"]["device"])


def new_name(kind: str) -> str:
    """What is under the top image when the job is over."""
    return {"stream": "", "commit": "commit-base.qcow2"}.get(kind, f"{kind}-mid.qcow2")


@pytest.mark.slow
@pytest.mark.parametrize("cluster_size", [4096, 65536])
def test_what_was_flushed_survives_a_kill(tmp_path: Path, cluster_size: int) -> None:
    completed = 0
    for run in range(RUNS // 2):
        rng = random.Random(f"{SEED}/{cluster_size}/{run}")
        content = {kind: make_chain(tmp_path, kind, cluster_size, rng) for kind in KINDS}
        drives = [f"drive=id={kind},file={kind}-top.qcow2,format=qcow2" for kind in KINDS]
        with Live(tmp_path, *drives) as live, live.qmp() as qmp, contextlib.ExitStack() as stack:
            guests = {}
            for kind in KINDS:
                handle = nbd.NBD()
                handle.connect_uri(live.uri(kind))
                guests[kind] = Guest(rng, handle, content[kind])
            steward = Steward(qmp, tmp_path, random.Random(rng.random()))
            steward.start()
            stack.callback(steward.join, TIMEOUT_S)
            work(live, list(guests.values()), rng.randrange(1, 400))
        name = f"seed {SEED}, cluster_size {cluster_size}, run {run}"
        assert not steward.wrong, (name, steward.wrong)
        for kind, guest in guests.items():
            check(tmp_path, kind, guest, content[kind], kind in steward.completed, name)
        completed += len(steward.completed)
    assert 0 < completed < len(KINDS) * (RUNS // 2) or RUNS < 6


def work(live: Live, guests: list[Guest], answers: int) -> None:
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


def check(
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


def test_a_stream_that_is_not_on_the_disk_keeps_the_backing_file(tmp_path: Path) -> None:
    """The header does not say that the backing file is not needed before that is so."""
    make_chain(tmp_path, "stream", 65536, random.Random(1))
    drive = "drive=id=vda,file=stream-top.qcow2,format=qcow2,file.node-name=file"
    with Live(tmp_path, drive) as live, live.qmp() as qmp:
        qmp("x-fault-add", node_name="file", iotype="flush", errno="EIO", count=1)
        for error in ("Input/output error", None):
            qmp("block-stream", device="vda", job_id="j")
            assert qmp.wait_event("BLOCK_JOB_COMPLETED")["data"].get("error") == error
            below = "" if error is None else "stream-mid.qcow2"
            assert backing_name(tmp_path / "stream-top.qcow2") == below
