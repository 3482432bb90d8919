# SPDX-License-Identifier: MIT
# Written by scripts/generate_client.py from aio/machine.py.
"""A machine: started or connected to, its events, and what can be done with it.

The synchronous face, `faultline.sync`, is derived from this package by
`scripts/generate_client`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from faultline.drives import Drive, Path
from faultline.errors import FaultlineError, MachineEnded, TimedOut
from faultline.events import KEPT, Event, Journal
from faultline.every_io import LIMIT
from faultline.options import plan
from faultline.process import Process, log_lines, tail
from faultline.served import ServedDrive, served_drives
from faultline.sizes import Size, size_of
from faultline.sync.bitmaps import Bitmap
from faultline.sync.channel import Channel
from faultline.sync.exploration import Explorable
from faultline.sync.fault_files import FaultFiles
from faultline.sync.faults import Fault
from faultline.sync.jobs import Job
from faultline.sync.power import PowerLoss
from faultline.sync.start import END_S, end, start
from faultline.sync.sweeps import Sweep
from faultline.sync.volumes import Volume
from faultline.sync.waiting import readable
from faultline.wire import wire_names

TIMEOUT_S = 60.0
"""The deadline of every call that has none of its own, in seconds."""

START_S = 60.0
"""The deadline of a start, in seconds: for a machine that has to install its packages first."""

DEATH_S = 1.0
"""The time that a machine which has hung up gets to end, until it counts as alive, in seconds."""


class Machine(FaultFiles, PowerLoss, Explorable):
    """One machine, with any number of drives, each of which is an NBD export.

    `drives` are images, or a `Drive` each; without any, and without
    `blockdevs`, the machine has one temporary drive of 1 GiB, vda, with
    rerror=stop and werror=enospc.  `blockdevs` and `devices` are definitions as
    QEMU's ``-blockdev`` and ``-device`` have them.  `nbd` and `control` are the
    paths of the sockets, in a private directory if not given.  `faults` is a file of
    fault rules that are there from the start.  `record` is a file to which the machine
    is recorded, with `record_data=False` without what is written, for `faultline replay`.
    The others are the keys of that name.  `options` are further options of `faultline
    serve`, `environ` its environment.  `timeout` is the deadline of every call that is not
    given one, in seconds.

    The machine is started by `with`, or by `start`, and ended by the end of
    the block, or by `close`; it ends with this process at the latest.  Raises
    ValueError for drives that make no sense, and StartFailed in the machine's
    words.

    >>> with Machine(Drive(size="64M", rerror="stop")) as m:
    ...     print(m.query_status()["status"], list(m.drives))
    running ['vda']
    """

    def __init__(
        self,
        *drives: Drive | Path,
        blockdevs: Iterable[Mapping[str, Any] | str] = (),
        devices: Iterable[Mapping[str, Any] | str] = (),
        prelaunch: bool | None = None,
        job_error_check: str | None = None,
        qemu: str | None = None,
        seed: int | None = None,
        name: str | None = None,
        allow_backing: str | None = None,
        sticky_io_status: bool | None = None,
        faults: Path | None = None,
        record: Path | None = None,
        record_data: bool | None = None,
        nbd: Path | None = None,
        control: Path | None = None,
        options: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_S,
    ) -> None:
        keys = {
            "prelaunch": prelaunch,
            "job-error-check": job_error_check,
            "qemu": qemu,
            "seed": None if seed is None else str(seed),
            "name": name,
            "allow-backing": allow_backing,
            "x-sticky-io-status": sticky_io_status,
            "faults": faults,
            "record": record,
            "record-data": record_data,
        }
        self._plan = plan(
            drives,
            blockdevs=blockdevs,
            devices=devices,
            keys=keys,
            nbd=nbd,
            control=control,
            options=options,
            environ=environ,
        )
        super().__init__(timeout)
        self._process: Process | None = None
        self._ready: Mapping[str, Any] = {}
        self._log = ""
        self._killed = False
        self._status: int | None = None

    @classmethod
    def connect(
        cls,
        path: Path,
        *,
        timeout: float = TIMEOUT_S,
        kept: int = KEPT,
        heard: Callable[[Event], object] | None = None,
    ) -> Self:
        """Connect to the control socket of a machine that runs, or of a real QEMU.

        `kept` is how many events are kept, for waits and to look at.  `heard` is
        called with each event at once, before any reply that comes after it: it
        must not wait for the machine, nor raise.  The end of the block hangs up, and
        leaves the machine as it is.  Raises ConnectFailed.

        >>> with Machine() as m, Machine.connect(m.control) as other:
        ...     print(other.execute("query-name"))
        {}
        """
        return cls._connected(path, timeout, Journal(kept, heard))

    @classmethod
    def _connected(cls, path: Path, timeout: float, journal: Journal) -> Self:
        machine = cls(timeout=timeout)
        machine._ready = {"control": os.path.abspath(path)}
        machine._channel = Channel.open(path, timeout, journal)
        return machine

    def start(self) -> Self:
        """Start the machine, and return it when all of its sockets accept connections.

        >>> m = Machine().start()
        >>> m.close()
        """
        if self._channel is not None or self._process is not None:
            raise FaultlineError("the machine is started already")
        self._process, self._ready = start(self._plan, START_S)
        try:
            self._channel = Channel.open(self._ready["control"], self.timeout)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End the machine if it was started here, and hang up.

        A machine that does not end is ended by force.  Raises
        MachineEnded if it has crashed, or if it had to be forced.
        """
        self._hang_up()
        process, self._process = self._process, None
        if process is not None:
            self._log, error = end(process)
            self._status = process.status
            if error is not None and not self._killed:
                raise MachineEnded(error)

    def kill(self) -> None:
        """End the process by force, as `kill -9` and a power cut do, and wait until it has ended.

        `close` takes that for an end as it should be.  Does nothing to a machine that
        was not started here, or that has ended.

        >>> with Machine() as m:
        ...     m.kill()
        ...     print(m.status)
        -9
        """
        if self._process is not None:
            self._process.kill()
            readable(self._process.pidfd, END_S)
            self._killed = True

    def __enter__(self) -> Self:
        if self._channel is None:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except MachineEnded as crash:
            if error is None:
                raise
            error.add_note(str(crash))

    @property
    def drives(self) -> dict[str, ServedDrive]:
        """The drives that the machine was started with, by id.

        >>> with Machine(Drive(size="1M", id="data")) as m:
        ...     m.drives["data"].uri.startswith("nbd+unix:///data?socket=")
        True
        """
        return served_drives(self._ready)

    @property
    def uri(self) -> str:
        """The NBD URI of the first drive."""
        for drive in self.drives.values():
            return drive.uri
        raise FaultlineError("the machine has no drive")

    @property
    def control(self) -> str:
        """The path of the control socket."""
        return str(self._started()["control"])

    @property
    def seed(self) -> int:
        """The seed of the machine's random numbers."""
        return int(self._started()["seed"])

    @property
    def pid(self) -> int | None:
        """The number of the machine's process; None if it was not started here."""
        return None if self._process is None else self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status of the machine's process, negative for a signal; None while it runs.

        None for a machine that was not started here.
        """
        return self._status if self._process is None else self._process.status

    def _started(self) -> Mapping[str, Any]:
        if not self._ready:
            raise FaultlineError("the machine is not started: use `with`, or start()")
        return self._ready

    def _connection(self) -> Channel:
        self._started()
        return super()._connection()

    def _end(self, lost: MachineEnded, before: str) -> MachineEnded:
        """Return the error for a lost connection: with the machine's end, if it has ended."""
        process = self._process
        if process is None or not readable(process.pidfd, DEATH_S):
            return super()._end(lost, before)
        text = f"the machine has ended (status {process.status}) before {before}"
        return MachineEnded(text + tail(process.log_text()))

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of the machine's log, with members such as `level`, `event` and `timestamp`.

        Empty for a machine that was not started here.
        """
        return log_lines(self.log_text)

    @property
    def log_text(self) -> str:
        """The log as it was written."""
        return self._log if self._process is None else self._process.log_text()

    def fault(
        self,
        node: str,
        *,
        iotype: str | Sequence[str] | None = None,
        errno: str | int | None = None,
        offset: Size | None = None,
        length: Size | None = None,
        **members: Any,
    ) -> Fault:
        """Add a fault rule to a node, or to the drive of that id; the end of a block removes it.

        The members are those of x-fault-add, with ``_`` for ``-``.

        >>> with Machine() as m:
        ...     with m.fault("vda", iotype="write", errno="ENOSPC", offset="32M") as fault:
        ...         print(fault.info()["hits"])
        0
        """
        given = {"node_name": node, "iotype": iotype, "errno": errno, **members}
        place = {"offset": size_of(offset), "length": size_of(length)}
        return Fault.add(self, wire_names(given | place))

    def barrier(self, device: str | None = None, *, timeout: float | None = None) -> None:
        """Wait until no request is in flight: on a drive, or on any.

        A request that is held or hangs is in flight.  Other commands of this machine
        object wait meanwhile.  Raises TimedOut.

        >>> with Machine() as m:
        ...     m.barrier("vda")
        """
        limit = self.timeout if timeout is None else timeout
        members = wire_names({"device": device, "timeout_ms": round(limit * 1000)})
        answer_by = limit + self.timeout
        if self.execute("x-barrier", members, timeout=answer_by)["timed-out"]:
            raise TimedOut(f"requests are in flight after {limit:g} s: x-query-requests has them")

    def sweep(
        self,
        node: str,
        *,
        iotype: str | Sequence[str] | None = None,
        errno: str | int | None = None,
        offset: Size | None = None,
        length: Size | None = None,
        limit: int = LIMIT,
        **members: Any,
    ) -> Sweep:
        """Return rounds in which the first, second, third... matching request is hit.

        A loop goes through them, with the workload in it, until one has no such
        request any more.  The members are those of x-fault-sweep, with ``_`` for ``-``:
        any kind of fault.  More rounds than `limit` are an error, and so is a first
        round without a request.

        >>> target = {"driver": "null-co", "node-name": "target", "size": 65536}
        >>> with Machine(Drive(size="64k"), blockdevs=[target]) as m:
        ...     for round in m.sweep("target", action="drop"):
        ...         m.blockdev_backup(device="vda", target="target", sync="full", job_id="b")
        ...         m.job("b").wait()
        ...         print(round, round.fired())
        with the 1st request lost True
        with the 2nd request lost False
        """
        given = {"node_name": node, "iotype": iotype, "errno": errno, **members}
        place = {"offset": size_of(offset), "length": size_of(length)}
        return Sweep(self, wire_names(given | place), limit)

    def bitmap(self, node: str, name: str, **members: Any) -> Bitmap:
        """Add a dirty bitmap to a node; the end of a block removes it.

        The members are those of block-dirty-bitmap-add, with ``_`` for ``-``.

        >>> with Machine() as m:
        ...     with m.bitmap("vda", "b0", granularity=65536) as bitmap:
        ...         print(bitmap.count())
        0
        """
        return Bitmap.add(self, node, name, members)

    def volume(self, node: str) -> Volume:
        """Return the thin volume under a node, or under the drive of that id.

        >>> thin = Drive(size="8M", options={"file.x-physical-size": "1M"})
        >>> with Machine(thin) as m:
        ...     print(m.volume("vda").info()["refusals"])
        0
        """
        return Volume(self, node)

    def job(self, id: str) -> Job:
        """Return the job of an id, which may have ended, or not begun.

        >>> with Machine(Drive(size="1M")) as m:
        ...     m.drive_backup(device="vda", sync="full", target="copy.img",
        ...                          format="raw", job_id="b")
        ...     m.job("b").wait()
        """
        return Job(self, id)
