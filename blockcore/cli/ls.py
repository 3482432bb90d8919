# SPDX-License-Identifier: MIT
"""`faultline ls`: the machines of this user on this host."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence

import click

from blockcore.cli.amounts import duration
from blockcore.cli.machines import Found, found, processes
from blockcore.cli.once import Command
from blockcore.cli.tables import fitted, screen_width

COLUMNS = ("PID", "NAME", "STATUS", "AGE", "DRIVES", "CONTROL")


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects.")
def ls(as_json: bool) -> None:
    """List the machines of this user on this host.

    They are found by their processes, whatever has started them, if they have a
    control socket.  NAME is what name= was; it will do for -s of all other commands,
    and so will PID.  "No answer" is none within 2 seconds.

    \b
    Examples:
      faultline ls
      faultline status -s m0
      faultline ls --json | jq -r '.[] | select(.status == "io-error").control'
    """
    machines = asyncio.run(found(processes()))
    if as_json:
        click.echo(json.dumps([machine.members() for machine in machines], indent=2))
    elif machines:
        click.echo("\n".join(table(machines, os.getcwd(), screen_width())))
    else:
        click.echo("There are no machines.")


def table(machines: Sequence[Found], directory: str, width: int | None) -> list[str]:
    """Return the lines of a table of machines, with paths as they are from a directory."""
    rows = [
        (
            str(one.pid),
            one.name,
            one.status or "no answer",
            duration(one.age_s),
            " ".join(one.drives),
            nearby(one.control, directory),
        )
        for one in machines
    ]
    return fitted(COLUMNS, rows, width)


def nearby(path: str, directory: str) -> str:
    """Return a path as it can be typed in a directory, if that is shorter."""
    beginning = os.path.join(directory, "")
    return path.removeprefix(beginning) if directory != "/" else path
