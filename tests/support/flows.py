# SPDX-License-Identifier: MIT
"""Scenarios that are played in this process, on a machine that is there, beside a manager."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from manager import Manager, Policy

from blockcore.cli.run_command import variables
from blockcore.cli.scenario_keys import ScenarioKeys
from blockcore.process.temporary_drive import with_files
from faultline.errors import FaultlineError
from faultline.scenario import shipped
from faultline.scenario.moves import COMMAND
from faultline.scenario.play import Play
from faultline.scenario.reading import read
from faultline.scenario.steps import Scenario
from faultline.sync.player import play
from live import Live, Qmp

Begin = Callable[[], AbstractContextManager[object]]
"""Begins a manager; the end of the block ends it."""


def flow(name: str, directory: Path, **given: str) -> Scenario:
    """A scenario that is shipped, with its scratch files in `directory`."""
    path = shipped.find(name)
    return read(path.read_text(), path.name, given, str(directory))


def served(scenario: Scenario, directory: Path) -> Live:
    """The machine of a scenario."""
    for name, size in scenario.files.items():
        with (directory / name).open("wb") as file:
            file.truncate(size)
    return Live(directory, *with_files(ScenarioKeys.of(scenario).keys, directory))


class Programs:
    """The programs of a scenario: shell commands, and a manager instead of the command."""

    def __init__(self, machine: Live, session: Qmp, begin: Begin) -> None:
        self.playing: Play | None = None
        self._env = {**os.environ, **variables(machine.ready)}
        self._session = session
        self._begin = begin
        self._managing = contextlib.ExitStack()
        self._guests: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []

    def start(self, name: str, shell: str) -> None:
        if name == COMMAND:
            self._managing.enter_context(self._begin())
            return
        guest = subprocess.Popen(
            ["sh", "-c", shell], env=self._env, stdout=subprocess.DEVNULL, process_group=0
        )
        self._guests.append(guest)
        self._threads.append(threading.Thread(target=self._wait, args=(name, guest)))
        self._threads[-1].start()

    def _wait(self, name: str, guest: subprocess.Popen[bytes]) -> None:
        status = guest.wait()
        with contextlib.suppress(FaultlineError):
            self._session.execute("query-status")
            assert self.playing is not None
            self.playing.ended(name, status)
            self._session.execute("query-status")

    def close(self) -> None:
        for guest in self._guests:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(guest.pid, 9)
        for thread in self._threads:
            thread.join()
        self._managing.close()


def played(machine: Live, scenario: Scenario, begin: Begin) -> Play:
    """Play a scenario; afterwards the machine is as before, but for what was written."""
    with machine.qmp() as session:
        playing = Play(scenario, session.journal, time.monotonic, "stays")
        programs = Programs(machine, session, begin)
        programs.playing = playing
        try:
            play(session, playing, programs)
        finally:
            programs.close()
        session("x-fault-clear")
        for job in session("query-block-jobs"):
            session("block-job-cancel", device=job["device"], force=True)
        session("cont")
    return playing


class Volumes:
    """A manager's storage: volumes that the machine plays.

    With `late` they are extended when the machine has stopped, and no earlier; `has_room`
    false is a pool that is full.
    """

    def __init__(self, machine: Live, *, late: bool = False, has_room: bool = True) -> None:
        self._session = machine.qmp()
        self._late = late
        self._has_room = has_room

    def size(self, volume: str) -> int:
        return int(self._session.volume(volume).info()["physical-size"])

    def extend(self, volume: str, add: int) -> None:
        if self._late:
            self._session.wait_event("STOP", timeout=20)
            self._late = False
        if self._has_room:
            self._session.volume(volume).extend(add=add)

    def close(self) -> None:
        self._session.close()


class Gullible(Manager):
    """A manager that extends whatever says that it is full, and nothing else."""

    def _made_room(self, drive: str, failure: object) -> bool:
        if not getattr(failure, "nospace", False):
            return False
        self.storage.extend(drive, self.policy.chunk)
        return True


@contextlib.contextmanager
def managed(
    machine: Live,
    kind: type[Manager] = Manager,
    *,
    thin: bool = False,
    late: bool = False,
    has_room: bool = True,
    policy: Policy | None = None,
    work: Callable[[Manager], object] | None = None,
) -> Iterator[Manager]:
    """Let a manager look after a machine; `work` is done on a thread of its own."""
    storage = Volumes(machine, late=late, has_room=has_room)
    watched = {"vda": "vda-file"} if thin else {}
    with contextlib.closing(storage):
        with kind(machine.control, storage, watched, policy or Policy()) as manager:
            thread = threading.Thread(target=_done, args=(work, manager))
            thread.start()
            try:
                yield manager
            finally:
                manager.machine.close()
                thread.join()


def _done(work: Callable[[Manager], object] | None, manager: Manager) -> None:
    # What a job ends with is told by the machine as well.
    with contextlib.suppress(FaultlineError):
        if work is not None:
            work(manager)
