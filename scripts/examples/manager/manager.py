# SPDX-License-Identifier: MIT
"""A small storage manager, to have something to test: put your own in its place.

It does for the drives of one machine what managers of virtual machines do, with
QEMU's commands and events only, so it works with a real QEMU as well:

- thin volumes grow before they are full, or, if that was too late, when the
  machine has stopped (oVirt);
- a machine that failing storage has stopped is continued again and again, at
  growing intervals, until it runs or the tries are used up (KubeVirt);
- a machine that somebody else has stopped is left alone (nova);
- jobs keep their result until it was read (Proxmox), and a job whose target is
  full goes on when the target has grown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from faultline import Event, Job, JobFailed, JobStopped, Machine, MachineEnded

FOREVER_S = 1e6
SECTOR = 512


class Storage(Protocol):
    """Where volumes are, such as LVM: asked for sizes, and for more room."""

    def size(self, volume: str) -> int:
        """Return the bytes that the volume has."""

    def extend(self, volume: str, add: int) -> None:
        """Let the volume grow; returns when it has."""


@dataclass(frozen=True)
class Policy:
    """When volumes grow, by how much, and how patiently a machine is continued."""

    chunk: int = 4 << 20
    headroom: int = 2 << 20
    tries: int = 5
    delay_s: float = 0.01
    longest_delay_s: float = 0.05
    calm_s: float = 5.0


@dataclass(frozen=True)
class Failure:
    """An error that has stopped a drive's machine: whether the storage called itself full."""

    nospace: bool
    time: float


@dataclass
class Manager:
    """Looks after the machine on a control socket, from `with` to the end of the block.

    `thin` has, for each drive on a thin volume, the name of the node of its
    file.  `notes` are what was done, and `alerts` what a person has to look at.
    """

    control: str
    storage: Storage
    thin: dict[str, str] = field(default_factory=dict)
    policy: Policy = Policy()
    notes: list[str] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)

    def __enter__(self) -> Manager:
        self.machine = Machine.connect(self.control)
        self._failures: dict[str, Failure] = {}
        self._extended: dict[str, float] = {}
        self._tries = 0
        self._continued = 0.0
        self._told = threading.Condition()
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._recover()
        for drive in self.thin:
            self._set_threshold(drive)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self.machine.close()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _tell(self, text: str, where: list[str]) -> None:
        with self._told:
            where.append(text)
            self._told.notify_all()

    def wait(self, text: str, timeout_s: float = 10) -> None:
        """Wait for a note or an alert."""
        with self._told:
            if not self._told.wait_for(lambda: text in self.notes + self.alerts, timeout_s):
                raise TimeoutError(f"no {text!r} among {self.notes + self.alerts}")

    # The machine's events, on a thread.

    def _recover(self) -> None:
        """Take care of a machine that was stopped by errors before there was a manager."""
        if self.machine.query_status()["status"] == "io-error":
            for block in self.machine.query_block():
                name = block["device"] or block["inserted"]["node-name"]
                if block["io-status"] != "ok":
                    self._failures[name] = Failure(block["io-status"] == "nospace", time.time())
            self._stopped()

    def _watch(self) -> None:
        names = ("BLOCK_WRITE_THRESHOLD", "BLOCK_IO_ERROR", "STOP")
        try:
            while True:
                self._react(self.machine.wait_any(*names, timeout=FOREVER_S))
        except MachineEnded:
            if not self._closing.is_set():
                self._tell("lost the machine", self.alerts)
        except BaseException as exc:
            self._error = exc

    def _react(self, event: Event) -> None:
        drive = event.get("device") or event.get("node-name")
        if event.name == "BLOCK_WRITE_THRESHOLD":
            for drive, node in self.thin.items():
                if node == event["node-name"]:
                    # The event comes before the write is carried out, and counted.
                    self._grow(drive, event["write-threshold"] + event["amount-exceeded"])
        elif event.name == "STOP":
            self._stopped()
        elif event["action"] == "stop":
            self._failures.setdefault(drive, Failure(event.get("nospace", False), event.time))
        elif event["action"] == "report":
            self._tell(f"{drive}: the guest was told: {event['reason']}", self.alerts)

    def _stopped(self) -> None:
        if self.machine.query_status()["status"] != "io-error":
            self._tell("paused by somebody else", self.notes)
            return
        failures, self._failures = self._failures, {}
        failing = [drive for drive in failures if not self._made_room(drive, failures[drive])]
        if not failing or self._wait_for_storage(failing):
            self._continued = time.monotonic()
            self._tell("continued", self.notes)
            self.machine.cont()

    def _made_room(self, drive: str, failure: Failure) -> bool:
        """Return whether a drive has failed because its volume was full, which it now is not."""
        if failure.time < self._extended.get(drive, 0.0):
            return True
        if self._is_full(drive):
            self._grow(drive, self.storage.size(drive))
            return True
        if failure.nospace:
            self._tell(f"{drive}: says that it is full, and has room", self.alerts)
        return False

    def _wait_for_storage(self, failing: list[str]) -> bool:
        """Wait before the next try; False if there is none."""
        if time.monotonic() > self._continued + self.policy.calm_s:
            self._tries = 0
        if self._tries == self.policy.tries:
            text = f"{', '.join(failing)}: failing after {self._tries} tries, paused"
            self._tell(text, self.alerts)
            return False
        delay_s = min(self.policy.delay_s * 2**self._tries, self.policy.longest_delay_s)
        self._tries += 1
        return not self._closing.wait(delay_s)

    # Thin volumes.

    def _written(self, drive: str) -> int:
        """Return where the highest write of a drive that succeeded has ended."""
        for stats in self.machine.query_blockstats():
            if drive in (stats.get("device"), stats.get("node-name")):
                return stats["parent"]["stats"]["wr_highest_offset"]
        raise LookupError(drive)

    def _is_full(self, drive: str) -> bool:
        """Return whether the volume has little room; what an error says may be wrong."""
        return drive in self.thin and self._written(drive) >= self._threshold(drive)

    def _threshold(self, drive: str) -> int:
        return self.storage.size(drive) - self.policy.headroom

    def _grow(self, drive: str, end: int) -> None:
        """Extend the volume until there is headroom after the byte `end`."""
        while end > self._threshold(drive):
            self.storage.extend(drive, self.policy.chunk)
            self._extended[drive] = time.time()
            self._tell(f"extended {drive}", self.notes)
        self._set_threshold(drive)

    def _set_threshold(self, drive: str) -> None:
        """Ask for an event before the volume is full; it does not come for what was written."""
        threshold = self._threshold(drive)
        self.machine.block_set_write_threshold(
            node_name=self.thin[drive], write_threshold=threshold
        )
        if self._written(drive) > threshold:
            self._grow(drive, self._written(drive))

    # Jobs.

    def migrate(self, drive: str, target: str) -> None:
        """Move a drive to a node; if that fails, the drive stays where it is."""
        self._run(
            self.machine.blockdev_mirror,
            target,
            lambda job: job.complete(),
            device=drive,
            sync="full",
            on_target_error="enospc",
        )

    def back_up(self, drive: str, target: str, *, bitmap: str | None = None) -> None:
        """Copy a drive to a node: all of it, or what `bitmap` has seen since it was last copied.

        If that fails, the bitmap keeps what it has for the next time.
        """
        self._run(
            self.machine.blockdev_backup,
            target,
            device=drive,
            sync="incremental" if bitmap else "full",
            bitmap=bitmap,
            on_target_error="enospc",
        )

    def collapse(self, drive: str) -> None:
        """Commit the overlay of a drive into what is below."""
        self._run(
            self.machine.block_commit,
            None,
            lambda job: job.complete(),
            device=drive,
            on_error="stop",
        )

    def flatten(self, drive: str, on_error: str) -> None:
        """Copy into the image of a drive what it has from below."""
        self._run(self.machine.block_stream, None, device=drive, on_error=on_error)

    def _run(
        self,
        begin: Callable[..., None],
        target: str | None,
        when_ready: Callable[[Job], None] | None = None,
        **members: Any,
    ) -> None:
        """Run a job until it has concluded, read its result, and dismiss it."""
        job = self.machine.job(f"job-{members['device']}")
        where = {} if target is None else {"target": target}
        begin(job_id=job.id, auto_dismiss=False, **where, **members)
        try:
            if when_ready is not None:
                self._wait(job, "ready", target)
                when_ready(job)
            self._wait(job, "end", target)
        except JobFailed as failure:
            self._tell(str(failure), self.alerts)
            raise
        finally:
            job.dismiss()

    def _wait(self, job: Job, until: str, target: str | None) -> None:
        """Wait for a job, and let its target grow, or the source recover, if that stops it."""
        for tries_left in range(self.policy.tries, -1, -1):
            try:
                return job.wait(until)
            except JobStopped as stop:
                self._tell(f"{job.id} stopped: {stop.io_status}", self.notes)
                if tries_left == 0:
                    job.cancel(force=True)
                elif target is not None and stop.io_status == "nospace":
                    self.storage.extend(target, self.policy.chunk)
                    job.resume()
                elif not self._closing.wait(self.policy.delay_s):
                    job.resume()
        return job.wait()
