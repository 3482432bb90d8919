# SPDX-License-Identifier: MIT
"""Options and commands that `faultline` does not have, and what to type instead.

This module is imported when there was an error.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection

import click

from blockcore.cli import answers
from blockcore.cli.group_words import GROUPS, RULE
from blockcore.cli.other_words import (
    CLIENT_OPTIONS,
    COMMAND_TEXTS,
    COMMANDS,
    EVENTS_OPTIONS,
    IMAGE_OPTIONS,
    SERVE_OPTIONS,
    TOP_OPTIONS,
)
from blockcore.cli.own_commands import own_schema
from blockcore.process.hints import EXAMPLE, MACHINE_KEYS, drive_option
from blockcore.qapi.nearest import did_you_mean, either, nearest, plain

PORT_MAX = 65535


def option(ctx: click.Context, typed: str, args: list[str]) -> str:
    """Return the message about an option that a command does not have.

    `typed` is what the parser has found, which is one letter of ``-drive``; `args`
    are the words among which it was.
    """
    at, word = _word(typed, args)
    value = args[at + 1] if at + 1 < len(args) and not args[at + 1].startswith("-") else None
    if "=" in word:
        word, _, value = word.partition("=")
    return f"No such option '{word}'{_instead(ctx, word, value)}"


def _word(typed: str, args: list[str]) -> tuple[int, str]:
    """Return the place of an unknown option, and the whole word; past the end without any."""
    for at, arg in enumerate(args):
        if arg == typed or arg.startswith(f"{typed}="):
            return at, arg
        # One letter of several: -d of -hda, where -h is an option.
        if len(typed) == 2 and arg[:1] == "-" != arg[1:2] and typed[1] in arg.partition("=")[0]:
            return at, arg
    return len(args), typed


def _instead(ctx: click.Context, word: str, value: str | None) -> str:
    """Return a clause with what to type instead of an option."""
    name = plain(word)
    command = ctx.command_path.partition(" ")[2]
    known = [
        one
        for param in ctx.command.get_params(ctx)
        for one in (*param.opts, *param.secondary_opts)
        if one.startswith("--")
    ]
    if (meant := nearest(word, known)) is not None:
        return f", did you mean '{meant}'?"
    if command == "serve":
        return _for_serve(word, value) or _beginning(name, known)
    if command == "":
        return _for_all(ctx, word)
    if command == "events" and name in EVENTS_OPTIONS:
        return f": {EVENTS_OPTIONS[name]}"
    if command in ("fault add", "fault modify"):
        if name in RULE:
            return f": {RULE[name].format(name)}"
        if name in _rule_members():
            return f": write {name}={value or 'VALUE'} without dashes"
    letter = [one for one in known if one[2:3] == name]
    if len(letter) == 1:
        return f", did you mean '{letter[0]}'?"
    if name in CLIENT_OPTIONS:
        return f": {CLIENT_OPTIONS[name]}"
    if command == "qmp":
        return f": arguments are {word.lstrip('-')}={value or 'VALUE'}, without dashes"
    if command == "job set-speed" and name[:1].isdigit():
        return ": SPEED is not negative"
    return _beginning(name, known)


def _beginning(name: str, known: Collection[str]) -> str:
    """Return a clause with the option of which `name` is a longer form: --nbd of --nbd-socket."""
    for one in known:
        if name.startswith(f"{plain(one)}-"):
            return f", did you mean '{one}'?"
    return ""


def _for_serve(word: str, value: str | None) -> str:
    """Return the clause for `serve`, where most options of QEMU's are keys."""
    name = plain(word)
    key = nearest(name, MACHINE_KEYS)
    if key is not None:
        default = "on" if key == "prelaunch" else "VALUE"
        return f": it is a key, {shlex.quote(f'{key}={value or default}')}"
    if word == "-S":
        return ": it is a key, prelaunch=on"
    if drive_option(name) or name in IMAGE_OPTIONS:
        return f": it is an option of a drive, as in {EXAMPLE}"
    letter = word.lstrip("-")
    instead = SERVE_OPTIONS.get(letter) or SERVE_OPTIONS.get(name)
    return "" if instead is None else f": {instead}"


def _for_all(ctx: click.Context, word: str) -> str:
    name = plain(word)
    if name.endswith("completion") and "completion" in _commands(ctx):
        return ": write faultline completion SHELL"
    if name in TOP_OPTIONS:
        return f": {TOP_OPTIONS[name]}"
    if name in ("s", "socket", "control"):
        return ": it goes behind the command, as in faultline qmp -s SOCKET query-status"
    # What several have is an option of `serve` first of all.
    for command in sorted(_commands(ctx), key=lambda one: one != "serve"):
        assert isinstance(ctx.command, click.Group)
        owner = ctx.command.get_command(ctx, command)
        if owner and word in {one for param in owner.params for one in param.opts}:
            return f": it is an option of 'faultline {command}', and goes behind that"
    if name in SERVE_OPTIONS or name in MACHINE_KEYS or drive_option(name):
        return f": the command comes first, as in faultline serve {EXAMPLE}"
    return ""


def _commands(ctx: click.Context) -> list[str]:
    assert isinstance(ctx.command, click.Group)
    return ctx.command.list_commands(ctx)


def command(ctx: click.Context, typed: str, known: Collection[str]) -> str:
    """Return the message about a command that a group does not have; `known` are its own."""
    message = f"No such command '{typed}'"
    if ctx.command_path.partition(" ")[2]:
        group = GROUPS[ctx.command_path.rpartition(" ")[2]]
        meant = did_you_mean(typed, known, group.commands)
        if typed in group.texts:
            return f"{message}: {group.texts[typed]}"
        return f"{message}{meant or f': it is {either(sorted(known))}'}"
    return message + _top_command(typed, known)


def _top_command(typed: str, known: Collection[str]) -> str:
    if (hint := did_you_mean(typed, known, COMMANDS)) and typed not in COMMAND_TEXTS:
        return hint
    if typed in COMMAND_TEXTS and nearest(typed, known) is None:
        for name in COMMANDS.get(typed, ()):
            if name in known and name != "jobs":
                return f", did you mean '{name}'?"
        return f": {COMMAND_TEXTS[typed]}"
    if "=" in typed:
        return f": the command comes first, as in faultline serve {shlex.quote(typed)}"
    if any(mark in typed for mark in "./"):
        return f": for an image write faultline serve {shlex.quote(f'drive=id=vda,file={typed}')}"
    if typed.startswith(("job-", "job_")):
        return f", did you mean 'faultline job {typed[4:]}'?"
    commands = _qmp_commands()
    if typed in commands:
        return f": it is a QMP command, write faultline qmp {typed}"
    meant = answers.qmp_name(typed, commands)
    if meant is not None:
        return f", did you mean 'faultline qmp {meant}'?"
    return f": it is {either(sorted(known))}"


def _qmp_commands() -> Collection[str]:
    """Return the names of QMP commands; none where what a machine needs is not installed."""
    try:
        return own_schema().commands
    except ImportError:
        return ()


def _rule_members() -> Collection[str]:
    """Return the names of the members of fault rules; none as `_qmp_commands` has none."""
    try:
        schema = own_schema()
    except ImportError:
        return ()
    return schema.members(schema.arguments("x-fault-add"))


def choice(message: str, kind: click.ParamType[object] | None) -> str:
    """Return click's message about an option without its value, with the values that there are."""
    if isinstance(kind, click.Choice):
        return f"{message.removesuffix('.')}: {either(kind.choices)}"
    return message


def pair(word: str) -> str:
    """Return a clause about a word of `serve` that is not KEY=VALUE."""
    typed, _, _ = word.partition(":")
    if (key := nearest(typed, MACHINE_KEYS)) is not None:
        shown = {"drive": EXAMPLE, "prelaunch": "prelaunch=on"}.get(key, f"{key}=VALUE")
        return f": write {shown}"
    if "=" in word:
        return ": a key begins with a letter"
    if word in ("on", "off", "-"):
        return ""
    if any(mark in word for mark in "./") or not word.isalpha():
        return f": an image is a drive's, {shlex.quote(f'drive=id=vda,file={word}')}"
    return f", as in {EXAMPLE}"


def number(message: str, low: float | None, high: float | None) -> str:
    """Return click's message about a number that is none, or not in its range, in our words."""
    typed = message.partition(" ")[0].strip("'")
    host, colon, port = typed.rpartition(":")
    if colon and port.isdigit() and high == PORT_MAX:
        return f"'{typed}' is no number: write --port {port} --address {host.strip('[]')}"
    if low is not None and high is not None:
        return f"'{typed}' is no number from {low:g} to {high:g}"
    return f"'{typed}' is no number" + (f" of {low:g} or more" if low else "")
