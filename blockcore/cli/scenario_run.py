# SPDX-License-Identifier: MIT
"""A scenario that is played: its machine, the programs beside it, and the verdict."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import click

from blockcore.bql.clock import SystemClock
from blockcore.cli.bench import Bench
from blockcore.cli.connection import TIMED_OUT_STATUS
from blockcore.cli.run_command import variables
from blockcore.cli.runtime_dir import make_runtime_dir
from blockcore.cli.scenario_keys import ScenarioKeys
from blockcore.process import signals
from blockcore.qapi.record import dataclass
from faultline.aio import Faults, Machine
from faultline.aio.player import play
from faultline.errors import (
    CommandError,
    ConnectFailed,
    FaultlineError,
    MachineEnded,
    StartFailed,
)
from faultline.scenario.play import Play
from faultline.scenario.report import verdict
from faultline.scenario.steps import Scenario

LINE = re.compile(r"^line (\d+): ")
"""What an error about several rules begins with: which of them it is about."""

Ready = Mapping[str, Any]
"""What a machine's ready line says."""


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a scenario: the exit status, and the report."""

    status: int
    report: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A scenario that is about to be played; `read` gets the directory of its scratch files.

    `socket` is the control socket of a machine that is there already; `timeout` in seconds.
    """

    read: Callable[[str], Scenario]
    command: Sequence[str]
    service: bool = False
    socket: str | None = None
    nbd: str | None = None
    control: str | None = None
    timeout: float | None = None

    async def play(self) -> Played:
        """Play it; a signal that asks this process to end ends all of it.

        Raises ClickException if there is no machine, or the command cannot be run.
        """
        came: list[int] = []
        task = asyncio.current_task()
        assert task is not None

        def end(number: int) -> None:
            came.append(number)
            task.cancel()

        loop = asyncio.get_running_loop()
        for number in (signals.ASKING, signals.HANGUP):
            loop.add_signal_handler(number, end, number)
        try:
            with _scratch() as directory:
                return await self._on_machine(self.read(directory), directory)
        except asyncio.CancelledError:
            if not came:
                raise
            return Played(128 + came[0], f"faultline: ended by {signals.name(came[0])}")

    async def _on_machine(self, scenario: Scenario, directory: str) -> Played:
        for name, size in scenario.files.items():
            try:
                with open(os.path.join(directory, name), "xb") as file:
                    file.truncate(size)
            except OSError as exc:
                raise click.ClickException(f"{name} of {size} bytes: {exc.strerror}") from exc
        played = None
        try:
            async with self._machine(scenario) as (machine, ready):
                async with _armed(machine, scenario):
                    played = await self._beside(machine, ready, scenario)
        except MachineEnded as crash:
            if played is None:
                raise click.ClickException(str(crash)) from crash
            return Played(played.status or 1, f"{played.report}\n  {crash}")
        return played

    @asynccontextmanager
    async def _machine(self, scenario: Scenario) -> AsyncIterator[tuple[Machine, Ready]]:
        """Start or find the machine, for the body."""
        if self.socket is not None:
            try:
                there = await Machine.connect(self.socket)
            except ConnectFailed as exc:
                raise click.ClickException(str(exc)) from exc
            async with there:
                yield there, {"drives": {}, "control": there.control}
            return
        keys = ScenarioKeys.of(scenario)
        threads = scenario.machine.get("threads")
        options = [] if threads is None else ["--threads", str(threads)]
        machine = Machine(options=[*options, *keys.keys], nbd=self.nbd, control=self.control)
        try:
            await machine.start()
        except StartFailed as exc:
            raise click.ClickException(keys.placed(str(exc))) from exc
        async with machine:
            uris = {id: drive.uri for id, drive in machine.drives.items()}
            yield machine, {"drives": uris, "control": machine.control, "seed": machine.seed}

    async def _beside(self, machine: Machine, ready: Ready, scenario: Scenario) -> Played:
        """Play it on a machine, with the command beside it."""
        kind = "none" if not self.command else "stays" if self.service else "ends"
        clock = SystemClock()
        began_ns, start_ns = clock.realtime_ns(), clock.monotonic_ns()
        playing = Play(scenario, machine.journal, lambda: clock.monotonic_ns() / 1e9, kind)

        async def told(name: str, status: int) -> None:
            # What the program has caused is in the journal after the first answer, and the
            # second one lets the player look again.
            with suppress(FaultlineError):
                await machine.execute("query-status")
            playing.ended(name, status)
            with suppress(FaultlineError):
                await machine.execute("query-status")

        bench = Bench(self.command, {**os.environ, **variables(ready)}, told)
        timed_out = False
        try:
            if not self.command and self.socket is None:
                click.echo(json.dumps(ready))
            async with asyncio.timeout(self.timeout):
                await play(machine, playing, bench)
        except TimeoutError:
            timed_out = True
            playing.cut_off(f"not over within {self.timeout or 0:g} s")
        finally:
            report = verdict(
                playing,
                began=began_ns / 1e9,
                took_s=(clock.monotonic_ns() - start_ns) / 1e9,
                command=shlex.join(self.command) if self.command else None,
            )
            await bench.close()
            # The machine may be one that goes on.
            with suppress(CommandError, MachineEnded):
                await Faults(machine, playing.rules).remove()
        if timed_out:
            return Played(TIMED_OUT_STATUS, report)
        return Played(1 if playing.failure else playing.status or 0, report)


@asynccontextmanager
async def _armed(machine: Machine, scenario: Scenario) -> AsyncIterator[None]:
    """Have the rules of a scenario for the body, all or none.

    Raises ClickException with the place of one that is refused.
    """
    faults = scenario.faults
    if not faults:
        # A real QEMU has no rules.
        yield
        return
    try:
        if isinstance(faults, str):
            rules = await machine.load_faults(faults)
        else:
            rules = await machine.faults(*faults)
    except CommandError as exc:
        text = LINE.sub(lambda found: _place(scenario, int(found[1]) - 1), exc.text)
        raise click.ClickException(text) from exc
    except ValueError as exc:
        raise click.ClickException(f"{faults}: it is no text in UTF-8") from exc
    async with rules:
        yield


def _place(scenario: Scenario, at: int) -> str:
    place = f"faults[{at}]"
    return f"{scenario.file}: line {scenario.lines[place]}: {place}: "


@contextmanager
def _scratch() -> Iterator[str]:
    """Make a private directory for the body; of one that is killed, another machine removes it."""
    private = make_runtime_dir(True, os.environ)
    try:
        yield str(private.path)
    finally:
        shutil.rmtree(private.path, ignore_errors=True)
        if private.lock is not None:
            os.close(private.lock)
