# SPDX-License-Identifier: MIT
"""`faultline drive`: what happens when requests of a drive fail."""

from __future__ import annotations

import click

from blockcore.cli.completions import named
from blockcore.cli.connection import Control, control_options
from blockcore.cli.once import Group
from blockcore.cli.qmp import Ask, in_session
from blockcore.cli.sending import carried_out

SETTINGS = {"help_option_names": ["-h", "--help"]}


@click.group(cls=Group, no_args_is_help=True, context_settings=SETTINGS)
def drive() -> None:
    """Change what happens when requests of a drive fail.

    \b
    Example:
      faultline drive set-policy -s m0.qmp vda --werror stop
    """


@drive.command(name="set-policy")
@control_options
@click.option(
    "--rerror",
    type=click.Choice(["report", "ignore", "stop"]),
    help="What a read does that fails.",
)
@click.option(
    "--werror",
    type=click.Choice(["report", "ignore", "stop", "enospc"]),
    help="What any other request does that fails.",
)
@click.argument("drive", shell_complete=named("drives"))
def set_policy(control: Control, drive: str, rerror: str | None, werror: str | None) -> None:
    """Set the policies of DRIVE, and print them.

    They are in force from the next failure on.  A failure is reported to the client
    (report), hidden (ignore), or the request is held and the machine stopped (stop);
    enospc stops at ENOSPC and reports all else.  Requests that are held stay held.

    \b
    Examples:
      faultline drive set-policy vda --werror stop
      faultline drive set-policy vda --rerror report --werror enospc
    """
    if rerror is None and werror is None:
        raise click.UsageError("which policy? Give --rerror, --werror or both")
    click.echo(in_session(control, lambda ask: _set(ask, drive, rerror, werror)))


async def _set(ask: Ask, drive: str, rerror: str | None, werror: str | None) -> str:
    members = {"device": drive, "rerror": rerror, "werror": werror}
    await carried_out(ask, "x-drive-set-policy", members, (), {"device": "DRIVE"})
    shown = await ask("query-block", {})
    # Both lists have all drives in one order.
    for info, policy in zip(shown, await ask("x-query-drives", {}), strict=True):
        if drive in (info["device"], info.get("qdev"), info["inserted"]["node-name"]):
            drive = policy["device"]
            rerror, werror = policy["rerror"], policy["werror"]
    return f"{drive}: rerror={rerror}, werror={werror}"
