# SPDX-License-Identifier: MIT
"""Running and stopping the machine."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from blockcore.machine.machine import Machine
from blockcore.qapi.events import Reset, Resume, Shutdown, Stop
from blockcore.qapi.names import RunState, ShutdownCause
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable

table = CommandTable()
for _event in (Stop, Resume, Shutdown, Reset):
    table.event(_event)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusInfo:
    """QAPI's StatusInfo; `singlestep`, which QEMU 7.2 has, is always false here."""

    running: bool
    singlestep: bool = False
    status: RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class NameInfo:
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IOThreadInfo:
    """QAPI's IOThreadInfo; there are no iothreads to report."""

    wire_names: ClassVar[dict[str, str]] = {"thread_id": "thread-id"}
    id: str
    thread_id: int


class RebootAction(StrEnum):
    RESET = "reset"
    SHUTDOWN = "shutdown"


class ShutdownAction(StrEnum):
    POWEROFF = "poweroff"
    PAUSE = "pause"


class PanicAction(StrEnum):
    PAUSE = "pause"
    SHUTDOWN = "shutdown"
    EXIT_FAILURE = "exit-failure"
    NONE = "none"


class WatchdogAction(StrEnum):
    RESET = "reset"
    SHUTDOWN = "shutdown"
    POWEROFF = "poweroff"
    PAUSE = "pause"
    DEBUG = "debug"
    NONE = "none"
    INJECT_NMI = "inject-nmi"


@table.command("query-status")
def query_status(machine: Machine) -> StatusInfo:
    """Return the run state; `running` is true only in the state of that name."""
    vm = machine.vm
    return StatusInfo(running=vm.running, status=vm.state)


@table.command("query-name")
def query_name(machine: Machine) -> NameInfo:
    """Return the name given with the key `name`."""
    return NameInfo(name=machine.name)


@table.command("query-iothreads")
def query_iothreads(machine: Machine) -> list[IOThreadInfo]:
    """Return an empty list: there are no iothreads."""
    return []


@table.command("stop")
async def stop(machine: Machine) -> None:
    """Stop the machine; the reply comes when no request is in flight and all is flushed."""
    await machine.stop(RunState.PAUSED)


@table.command("cont")
def cont(machine: Machine) -> None:
    """Let the machine run, with every io-status ok, and retry the held requests."""
    machine.cont()


@table.command("system_reset")
async def system_reset(machine: Machine) -> None:
    """Reset the devices, and drop their held requests.

    Over NBD a request must be answered: a dropped one fails with ESHUTDOWN.
    """
    await machine.reset()


@table.command("quit")
async def quit_machine(machine: Machine) -> None:
    """Say SHUTDOWN, cancel all jobs, and end the process, with exit status 0."""
    machine.quit(ShutdownCause.HOST_QMP_QUIT)
    await machine.jobs_ended()


@table.command("set-action")
def set_action(
    machine: Machine,
    *,
    reboot: RebootAction | None = None,
    shutdown: ShutdownAction | None = None,
    panic: PanicAction | None = None,
    watchdog: WatchdogAction | None = None,
) -> None:
    """Accept what QEMU accepts; without a guest CPU none of these things can happen."""


@table.command("x-replay-stop")
def x_replay_stop(machine: Machine, *, held: bool) -> None:
    """Stop the machine if an error has asked for that, and say when later errors do.

    With `held` the stops that errors ask for wait for this command; without, they
    come by themselves, as at first.  A replay has its stops where its recording has them.
    """
    machine.stopping.hold(held)
