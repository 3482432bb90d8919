# SPDX-License-Identifier: MIT
"""The programs beside a scenario: the command that is tested, and the shell commands of steps."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import click

from blockcore.cli.run_command import is_in_foreground
from blockcore.cli.supervise import END_S, descendants, shell_status
from blockcore.process import signals
from faultline.aio.waiting import readable
from faultline.scenario.moves import COMMAND

Told = Callable[[str, int], Awaitable[None]]
"""Is awaited with the name and the exit status of a program that has ended."""


class Program:
    """A program that runs, in a process group of its own.

    Only the command that is tested stays in the group of this process if that is in the
    foreground of a terminal: then it can read the terminal, and has Ctrl-C from there.
    """

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], *, is_command: bool = False
    ) -> None:
        self._in_our_group = is_command and is_in_foreground()
        try:
            self._popen = subprocess.Popen(
                argv,
                env=env,
                stdin=None if is_command else subprocess.DEVNULL,
                # What a step prints is no result.
                stdout=None if is_command else 2,
                process_group=None if self._in_our_group else 0,
            )
        except OSError as exc:
            raise click.ClickException(f"{argv[0]}: {exc.strerror}") from exc
        self._pidfd = os.pidfd_open(self._popen.pid)

    async def ended(self) -> int:
        """Wait for its end; return its exit status as a shell has it."""
        await readable(self._pidfd, math.inf)
        return shell_status(self._popen.wait())

    async def end(self) -> None:
        """Ask it, and what it has started, to end; kill what has not after `END_S` seconds."""
        if self._popen.poll() is None:
            self._send(signals.ASKING)
            if not await readable(self._pidfd, END_S):
                self._send(signals.KILLING)
                await readable(self._pidfd, math.inf)
            self._popen.wait()
        if not self._in_our_group:
            self._send(signals.KILLING)
        os.close(self._pidfd)

    def _send(self, number: int) -> None:
        if not self._in_our_group:
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, number)
            return
        for pid in (*descendants(self._popen.pid), self._popen.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


class Bench:
    """All programs of a scenario, which have the environment `env`; `close` ends them.

    `command` is the one that is tested.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], told: Told) -> None:
        self._command = command
        self._env = env
        self._told = told
        self._programs: list[Program] = []
        self._waits: list[asyncio.Task[None]] = []

    def start(self, name: str, shell: str) -> None:
        """Start a shell command, or the one that is tested; raises ClickException."""
        if name == COMMAND:
            program = Program(self._command, self._env, is_command=True)
        else:
            program = Program(["/bin/sh", "-c", shell], self._env)
        self._programs.append(program)
        self._waits.append(asyncio.create_task(self._wait(name, program)))

    async def _wait(self, name: str, program: Program) -> None:
        await self._told(name, await program.ended())

    async def close(self) -> None:
        """End what still runs."""
        for wait in self._waits:
            wait.cancel()
        await asyncio.gather(*self._waits, return_exceptions=True)
        await asyncio.gather(*(program.end() for program in self._programs))
