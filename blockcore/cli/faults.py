# SPDX-License-Identifier: MIT
"""`faultline fault`: the rules by which requests fail."""

from __future__ import annotations

import json
from typing import Any

import click

from blockcore.cli.completions import named
from blockcore.cli.connection import Control, control_options
from blockcore.cli.fault_files import import_command, load, save
from blockcore.cli.fault_options import (
    ACTIONS,
    CHANGEABLE,
    OPTIONS,
    Rule,
    check_words,
    rule_options,
    warn,
)
from blockcore.cli.fault_table import table
from blockcore.cli.once import Group
from blockcore.cli.qmp import Ask, in_session
from blockcore.cli.sending import carried_out
from blockcore.cli.sweep import sweep
from blockcore.cli.tables import screen_width
from blockcore.qapi.nearest import did_you_mean

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 80}


@click.group(cls=Group, no_args_is_help=True, context_settings=SETTINGS)
def fault() -> None:
    """Make requests fail, wait or go wrong: add, list, change and remove fault rules.

    \b
    Examples:
      faultline fault add -s m0.qmp vda --write --errno ENOSPC --from 32M
      export FAULTLINE_CONTROL=m0.qmp
      faultline fault list
      faultline fault modify fault0 --rate 10%
      faultline fault sweep vda --write --run ./test.sh
      faultline fault clear
    """


for command in (load, save, import_command, sweep):
    fault.add_command(command)


def _actions() -> str:
    """Return what is said of actions behind the help of a command."""
    return "\b\nActions, and the KEYs that only they have:\n" + "\n".join(
        f"  {name:<11}{text}" for name, text in ACTIONS.items()
    )


@fault.command(epilog=_actions())
@control_options
@rule_options()
@click.option("--id", "rule_id", metavar="ID", help="Name of the rule.  [default: made up]")
@click.argument("drive", shell_complete=named("drives"))
@click.argument("words", metavar="[KEY=VALUE]...", nargs=-1)
def add(
    control: Control, rule_id: str | None, drive: str, words: tuple[str, ...], **given: Any
) -> None:
    """Add a rule: requests to DRIVE, or to a node, fail from now on.

    Prints the id of the rule, and on stderr why it hits nothing as things are, if so.
    Without --errno they fail with EIO; --action says what else may become of them.
    Without a kind of request those are meant which the action is usually for, and
    never questions for the block status or connections; with several there is a
    rule for each.  SIZE may have a binary suffix: k, M, G.  A KEY is any other
    member of x-fault-add, see faultline qmp x-fault-add --help.

    \b
    Examples:
      faultline fault add vda --write --errno ENOSPC --from 32M
      faultline fault add vda --read --from 1M --length 64k --id bad-sectors
      faultline fault add vda --flush --after 2 --count 1
      faultline fault add vda --rate 1% --errno EIO
      faultline fault add vda --action delay delay-ms=20 jitter-ms=5
      faultline fault add vda --write --action torn sectors=1 --id torn
      faultline fault add vda --connect --count 3
    """
    rule = Rule(**given)
    check_words(words)
    ids = in_session(control, lambda ask: _added(ask, drive, rule, rule_id, words))
    click.echo("\n".join(ids))


async def _added(
    ask: Ask, drive: str, rule: Rule, rule_id: str | None, words: tuple[str, ...]
) -> list[str]:
    """Add a rule for each kind of request, or none if one cannot be added; return the ids."""
    ids: list[str] = []
    try:
        for kind in rule.kinds or [""]:
            name = rule_id if rule_id is None or len(rule.kinds) < 2 else f"{rule_id}-{kind}"
            members = {"node-name": drive, "id": name, "iotype": kind or None, **rule.members()}
            reply = await carried_out(ask, "x-fault-add", members, words, OPTIONS)
            ids.append(reply["id"])
            warn(reply)
    except click.ClickException:
        for added in ids:
            await ask("x-fault-remove", {"id": added})
        raise
    return ids


@fault.command(epilog=_actions())
@control_options
@rule_options()
@click.argument("rule_id", metavar="FAULT", shell_complete=named("faults"))
@click.argument("words", metavar="[KEY=VALUE]...", nargs=-1)
def modify(control: Control, rule_id: str, words: tuple[str, ...], **given: Any) -> None:
    """Change a rule: what is given replaces what the rule has.

    All else stays, and so do the counters: --count 5 lets a rule that has hit 3
    requests hit 2 more.  A KEY is any other member of x-fault-modify, see
    faultline qmp x-fault-modify --help.

    \b
    Examples:
      faultline fault modify fault0 --rate 10%
      faultline fault modify fault0 --from 48M --errno EIO
    """
    rule = Rule(**given)
    check_words(words)
    if len(rule.kinds) > 1:
        raise click.UsageError(f"a rule is for one kind of request: --{rule.kinds[0]} or another")
    if not words and not any(value not in (None, False) for value in given.values()):
        raise click.UsageError("what is to be changed? Give an option, or KEY=VALUE")
    in_session(control, lambda ask: _modified(ask, rule_id, rule, words))
    click.echo(f"{rule_id}: changed")


async def _modified(ask: Ask, rule_id: str, rule: Rule, words: tuple[str, ...]) -> None:
    begins = 0
    if rule.needs_start:
        begins = (await _known(ask, rule_id)).get("offset", 0)
    members = {"iotype": rule.kinds[0] if rule.kinds else None, **rule.members(begins)}
    try:
        named = {"id": rule_id, **members}
        warn(await carried_out(ask, "x-fault-modify", named, words, CHANGEABLE))
    except click.ClickException:
        await _known(ask, rule_id)
        raise


@fault.command(name="list")
@control_options
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects.")
def list_command(control: Control, as_json: bool) -> None:
    """List all rules, with the requests that each has seen and hit.

    SEEN counts the requests that fit the rule, HITS those of them that it has hit.
    With --json, each object has the members of x-query-faults.

    \b
    Examples:
      faultline fault list
      faultline fault list --json | jq -r '.[] | select(.hits > 0).id'
    """
    rules = in_session(control, lambda ask: ask("x-query-faults", {}))
    if as_json:
        click.echo(json.dumps(rules, indent=2))
    elif rules:
        click.echo("\n".join(table(rules, screen_width())))
    else:
        click.echo("There are no faults.")


@fault.command()
@control_options
@click.argument(
    "ids", metavar="FAULT...", nargs=-1, required=True, shell_complete=named("faults")
)
def remove(control: Control, ids: tuple[str, ...]) -> None:
    """Remove rules.

    All that are named go, or none if there is no such rule.

    \b
    Example:
      faultline fault remove fault0 bad-sectors
    """

    async def removed(ask: Ask) -> None:
        for rule_id in ids:
            await _known(ask, rule_id)
        for rule_id in dict.fromkeys(ids):
            await ask("x-fault-remove", {"id": rule_id})

    in_session(control, removed)
    for rule_id in dict.fromkeys(ids):
        click.echo(f"{rule_id}: removed")


@fault.command()
@control_options
@click.option(
    "--hits",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Until so many requests have been hit.",
)
@click.argument("rule_id", metavar="FAULT", shell_complete=named("faults"))
def wait(control: Control, rule_id: str, hits: int) -> None:
    """Wait until a rule has hit requests.

    Prints how many since it was added.  Fails if the rule is removed or used up
    before; --timeout gives up with status 124.

    \b
    Example:
      faultline fault wait fault0 --hits 3 --timeout 10
    """

    async def waited(ask: Ask) -> int:
        await _known(ask, rule_id)
        return int((await ask("x-fault-wait", {"id": rule_id, "hits": hits}))["hits"])

    found = in_session(control, waited)
    if found < hits:
        raise click.ClickException(f"{rule_id}: is over after {_count(found, 'hit')}")
    click.echo(f"{rule_id}: {_count(found, 'hit')}")


@fault.command()
@control_options
@click.argument("rule_id", metavar="FAULT", shell_complete=named("faults"))
def release(control: Control, rule_id: str) -> None:
    """Let the requests go on that a rule keeps hanging.

    Those that come later hang again, until the rule is removed.

    \b
    Example:
      faultline fault release fault0
    """

    async def released(ask: Ask) -> int:
        await _known(ask, rule_id)
        return int((await ask("x-fault-release", {"id": rule_id}))["released"])

    click.echo(f"{rule_id}: {_count(in_session(control, released), 'request')} released")


def _count(number: int, what: str) -> str:
    return f"{number} {what if number == 1 else f'{what}s'}"


@fault.command()
@control_options
@click.argument("drive", required=False, shell_complete=named("drives"))
def clear(control: Control, drive: str | None) -> None:
    """Remove all rules, or all rules of one drive or node.

    What hangs goes on.  Requests that are held are tried again by faultline cont.

    \b
    Examples:
      faultline fault clear
      faultline fault clear vda && faultline cont
    """

    async def cleared(ask: Ask) -> int:
        before = len(await ask("x-query-faults", {}))
        await carried_out(ask, "x-fault-clear", {"node-name": drive}, (), OPTIONS)
        return before - len(await ask("x-query-faults", {}))

    number = in_session(control, cleared)
    click.echo(f"{_count(number, 'rule')} removed")


async def _known(ask: Ask, rule_id: str) -> dict[str, Any]:
    """Return a rule; raises ClickException with what may have been meant if there is none."""
    rules = {rule["id"]: rule for rule in await ask("x-query-faults", {})}
    if rule_id not in rules:
        hint = did_you_mean(rule_id, rules) or " ('faultline fault list' lists them)"
        raise click.ClickException(f"there is no fault '{rule_id}'{hint}")
    return dict(rules[rule_id])
