# SPDX-License-Identifier: MIT
"""The group of all commands, and how their errors are reported."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from blockcore.cli.once import Group
from blockcore.cli.output import abandon, described, flush, open_missing_streams, tell
from blockcore.process.signals import interrupts_raise

MODULES = {
    "bitmap": "bitmaps",
    "completion": "completion",
    "cont": "machine_control",
    "drive": "drives",
    "events": "events",
    "fault": "faults",
    "job": "jobs",
    "jobs": "jobs",
    "ls": "ls",
    "qmp": "qmp",
    "quit": "machine_control",
    "replay": "replay",
    "reset": "machine_control",
    "scenario": "scenario",
    "serve": "serve",
    "status": "status",
    "stop": "machine_control",
    "volume": "volumes",
    "wait": "wait_event",
}
"""The module of each command, in this folder."""

FUNCTIONS = {"quit": "quit_command"}
"""The functions of commands that have another name than the command."""


class Commands(Group):
    """A group that imports only the command that is used.

    `serve` does not need the QMP client, and `qmp` not the drawing library; both
    take long to import.  All commands except `serve` handle interrupts.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in MODULES:
            return None
        module = import_module(f"blockcore.cli.{MODULES[cmd_name]}")
        command = getattr(module, FUNCTIONS.get(cmd_name, cmd_name))
        assert isinstance(command, click.Command)
        gc.enable()
        if cmd_name != "serve":
            interrupts_raise()
        return command


@click.group(
    cls=Commands, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="faultline", message="%(prog)s %(version)s")
def faultline() -> None:
    """Serve drives that fail, stop and resume as QEMU's do, and control them.

    \b
    faultline serve control=m0.qmp drive=id=vda,file=disk.img,rerror=stop
    faultline status -s m0.qmp
    faultline fault add -s m0.qmp vda --write --errno ENOSPC
    faultline events -s m0.qmp
    faultline qmp -s m0.qmp query-block

    A machine serves its drives over NBD; every NBD client is its guest.  Each
    command has its own --help.
    """


def run(argv: Sequence[str] | None) -> int:
    """Run the command line `argv` (default: the process's) and return its exit status.

    0 is success, 1 a failure, 2 a wrong command line, 3 a job that an error has
    stopped, 124 a --timeout that has passed, 130 an interrupt.  A failure prints one
    line on stderr.
    """
    open_missing_streams()
    try:
        status = _invoke(argv)
        flush()
    except OSError as exc:
        abandon(sys.stdout)
        tell(f"faultline: {described(exc)}")
        return 1
    return status


def _invoke(argv: Sequence[str] | None) -> int:
    try:
        status = faultline.main(argv, prog_name="faultline", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as exc:
        tell(exc.format_message())
        return exc.exit_code
    except click.UsageError as exc:
        name = exc.ctx.command_path if exc.ctx else "faultline"
        see = getattr(exc, "see", f"{name} --help")
        tell(f"{name}: {_one_line(exc)} (see {see})")
        return exc.exit_code
    except click.ClickException as exc:
        tell(f"faultline: {_one_line(exc)}")
        return exc.exit_code
    except click.Abort:
        return 130
    return status if isinstance(status, int) else 0


def _one_line(exc: click.ClickException) -> str:
    """Return click's message as a clause, without its line breaks and full stop."""
    return " ".join(exc.format_message().split()).removesuffix(".")
