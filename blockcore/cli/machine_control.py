# SPDX-License-Identifier: MIT
"""`faultline cont`, `stop`, `reset` and `quit`: the run state of a machine."""

from __future__ import annotations

import click

from blockcore.cli.connection import Control, connected, control_options, disconnected
from blockcore.cli.once import Command
from faultline.aio import Machine

SETTINGS = {"help_option_names": ["-h", "--help"]}


@click.command(cls=Command, context_settings=SETTINGS)
@control_options
def cont(control: Control) -> None:
    """Let a machine run, and try its held requests again.

    Prints the run state, which is io-error where a request has failed again by
    then.

    \b
    Examples:
      faultline cont -s m0.qmp
      faultline fault clear && faultline cont
    """
    _run_state(control, "cont")


@click.command(cls=Command, context_settings=SETTINGS)
@control_options
def stop(control: Control) -> None:
    """Stop a machine, and hold requests until cont.

    Waits until none is in flight, and prints the run state.  A machine that was
    stopped by an I/O error stays in the state io-error.

    \b
    Example:
      faultline stop --timeout 10
    """
    _run_state(control, "stop")


@click.command(cls=Command, context_settings=SETTINGS)
@control_options
def reset(control: Control) -> None:
    """Reset a machine, and fail its held requests.

    Their clients see ESHUTDOWN.  Prints the run state.  A machine that runs goes on;
    one that is stopped is as before its start, until cont.

    \b
    Example:
      faultline reset && faultline cont
    """
    _run_state(control, "system_reset")


@click.command(name="quit", cls=Command, context_settings=SETTINGS)
@control_options
def quit_command(control: Control) -> None:
    """End a machine, and wait until it has closed its images.

    \b
    Example:
      faultline quit -s m0.qmp
    """
    path = control.path

    async def end() -> None:
        async with connected(path) as machine:
            await machine.execute("quit")
            await disconnected(machine)

    control.limited(end(), lambda: f"{path}: the machine has not ended")


def _run_state(control: Control, command: str) -> None:
    async def steer(machine: Machine) -> str:
        await machine.execute(command)
        return (await machine.query_status())["status"]

    click.echo(control.run(steer))
