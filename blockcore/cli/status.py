# SPDX-License-Identifier: MIT
"""`faultline status`: one look at a machine."""

from __future__ import annotations

import json
from typing import Any

import click

from blockcore.cli.connection import Control, ErrorReply, control_options
from blockcore.cli.once import Command
from blockcore.cli.qmp import Ask, in_session
from blockcore.cli.status_text import described
from blockcore.cli.tables import screen_width
from blockcore.cli.volumes import known_volumes
from faultline.job_info import merge


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@control_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def status(control: Control, as_json: bool) -> None:
    """Show a machine: state, drives, requests, faults, jobs.

    Requests are those that are not answered; of many the oldest are shown.  What
    there is none of is left out.  With --json, each member of the object is what the
    query of that name returns: status, block, drives, requests, faults, jobs,
    volumes.

    \b
    Examples:
      faultline status -s m0.qmp
      faultline status --json | jq '.requests | length'
    """
    machine = in_session(control, looked)
    if as_json:
        del machine["above"]
        click.echo(json.dumps(machine, indent=2))
    else:
        click.echo("\n".join(described(machine, screen_width())))


async def looked(ask: Ask) -> dict[str, Any]:
    """Return what a machine says about itself; `above` are the drives above volumes, by node.

    A server that is no machine of this package, such as QEMU, lacks some of it.
    """
    jobs = await _of(ask, "query-jobs")
    volumes, above = await known_volumes(ask) if await _of(ask, "x-query-volumes") else ([], {})
    return {
        "name": (await _of(ask, "query-name") or {}).get("name"),
        "status": await _of(ask, "query-status") or {},
        "block": await _of(ask, "query-block"),
        "drives": await _of(ask, "x-query-drives"),
        "requests": await _of(ask, "x-query-requests"),
        "faults": await _of(ask, "x-query-faults"),
        "jobs": merge(jobs, await _of(ask, "query-block-jobs")),
        "volumes": volumes,
        "above": above,
    }


async def _of(ask: Ask, query: str) -> Any:
    """Return what a query returns; an empty list if the server does not have it."""
    try:
        return await ask(query, {})
    except ErrorReply:
        return []
