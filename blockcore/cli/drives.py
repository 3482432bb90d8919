# SPDX-License-Identifier: MIT
"""`faultline drive`: what happens when requests of a drive fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from blockcore.cli.completions import named
from blockcore.cli.connection import Control, control_options
from blockcore.cli.once import Group
from blockcore.cli.qmp import Ask, in_session
from blockcore.cli.sending import carried_out
from blockcore.qapi.nearest import either

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
    type=click.Choice(["report", "ignore", "stop", "retry"]),
    help="What a read does that fails.",
)
@click.option(
    "--werror",
    type=click.Choice(["report", "ignore", "stop", "enospc", "retry"]),
    help="What any other request does that fails.",
)
@click.option("--retry-interval", metavar="MS", type=int, help="Milliseconds between two tries.")
@click.option("--retry-timeout", metavar="MS", type=int, help="Milliseconds of trying; 0: no end.")
@click.option(
    "--on-stop",
    type=click.Choice(["hold", "eshutdown"]),
    help="What requests do while the machine is stopped.",
)
@click.argument("drive", shell_complete=named("drives"))
def set_policy(control: Control, drive: str, **policies: str | int | None) -> None:
    """Set the policies of DRIVE, and print them.

    They are in force from the next failure on.  A failure is reported to the client
    (report), hidden (ignore), or the request is held and the machine stopped (stop);
    enospc stops at ENOSPC and reports all else; retry tries the request again and
    again, until --retry-timeout if that is given, and then reports.  Requests that
    are held stay held, but under --on-stop eshutdown they fail with ESHUTDOWN, as do
    those that come while the machine is stopped.

    \b
    Examples:
      faultline drive set-policy vda --werror stop
      faultline drive set-policy vda --rerror report --werror enospc
      faultline drive set-policy vda --werror retry --retry-timeout 30000
    """
    if not any(value is not None for value in policies.values()):
        options = ["--rerror", "--werror", "--retry-interval", "--retry-timeout", "--on-stop"]
        raise click.UsageError(f"which policy? Give {either(options)}")
    click.echo(in_session(control, lambda ask: _set(ask, drive, policies)))


async def _set(ask: Ask, drive: str, policies: Mapping[str, str | int | None]) -> str:
    members = {
        "x-on-stop" if name == "on_stop" else name.replace("_", "-"): value
        for name, value in policies.items()
    }
    members["device"] = drive
    await carried_out(ask, "x-drive-set-policy", members, (), {"device": "DRIVE"})
    shown = await ask("query-block", {})
    # Both lists have all drives in one order.
    for info, policy in zip(shown, await ask("x-query-drives", {}), strict=True):
        if drive in (info["device"], info.get("qdev"), info["inserted"]["node-name"]):
            return f"{policy['device']}: {_described(policy)}"
    return drive


def _described(policy: Mapping[str, Any]) -> str:
    """Return a drive's policies; those of QEMU's, and of the others what is in use."""
    words = [f"rerror={policy['rerror']}", f"werror={policy['werror']}"]
    if "retry" in (policy["rerror"], policy["werror"]):
        words += [f"{name}={policy[name]}" for name in ("retry-interval", "retry-timeout")]
    if policy["x-on-stop"] != "hold":
        words.append(f"on-stop={policy['x-on-stop']}")
    return ", ".join(words)
