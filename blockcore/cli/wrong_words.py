# SPDX-License-Identifier: MIT
"""Options and commands that `faultline` does not have, and what to type instead.

Most are words of QEMU's, nbdkit's and qemu-storage-daemon's command lines.  This
module is imported when there was an error.  What exists by now is never looked up
here, so nothing here can hide it.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Final

import click

from blockcore.cli import answers
from blockcore.cli.own_commands import own_schema
from blockcore.process.hints import EXAMPLE, MACHINE_KEYS, drive_option
from blockcore.qapi.nearest import Meanings, did_you_mean, either, nearest, plain

_NBD = "the NBD server listens at --nbd SOCKET or --port N"
_CONTROL = "the control socket is --control SOCKET"
_NBDKIT = "options of nbdkit go behind --, as in serve drive=... -- --filter=delay wdelay=1"
_TLS = "write --tls-psk FILE or --tls-certificates DIR"
_BACKGROUND = "write --daemonize"
_LOG = "write --log-file FILE, --log-level LEVEL"
_GUEST = "every NBD client is the guest; there is no other, and no hardware but drives"
_NO_MEDIA = "drives have no removable media"
_JSON = "its output is JSON already"

_SERVE: Final = {
    "accel": _GUEST,
    "b": _BACKGROUND,
    "background": _BACKGROUND,
    "bind": "write --port N --address ADDRESS",
    "cdrom": _NO_MEDIA,
    "chardev": _CONTROL,
    "command": "write --run COMMAND",
    "config": "keys and options are given in the command line",
    "cpu": _GUEST,
    "D": _LOG,
    "d": _BACKGROUND,
    "daemon": _BACKGROUND,
    "debug": "write --log-level debug",
    "display": _GUEST,
    "e": "each drive is an export, called by its id",
    "enable-kvm": _GUEST,
    "exec": "write --run COMMAND",
    "export": "each drive is an export, called by its id",
    "export-name": "each drive is an export, called by its id",
    "exportname": "each drive is an export, called by its id",
    "f": "it is in the foreground without --daemonize",
    "filter": _NBDKIT,
    "foreground": "it is in the foreground without --daemonize",
    "fork": _BACKGROUND,
    "g": _GUEST,
    "h": _GUEST,
    "host": "write --port N --address ADDRESS",
    "i": "write --port N --address ADDRESS",
    "incoming": "there is no migration of a machine",
    "ip": "write --port N --address ADDRESS",
    "ipaddr": "write --port N --address ADDRESS",
    "kernel": _GUEST,
    "l": _LOG,
    "listen": _NBD,
    "log": _LOG,
    "logfile": _LOG,
    "m": _GUEST,
    "machine": _GUEST,
    "metrics": "counters are in 'faultline qmp query-blockstats'",
    "mask-handshake": _NBDKIT,
    "mon": _CONTROL,
    "monitor": _CONTROL,
    "nbd-server": _NBD,
    "netdev": _GUEST,
    "nodefaults": _GUEST,
    "newstyle": _NBDKIT,
    "no-sr": _NBDKIT,
    "nographic": _GUEST,
    "object": "drives have limits in common by throttling.group=NAME in drive=",
    "oldstyle": _NBDKIT,
    "P": "write --pidfile FILE",
    "p": "write --port N",
    "pid": "write --pidfile FILE",
    "pid-file": "write --pidfile FILE",
    "q": "write --quiet",
    "qmp": _CONTROL,
    "r": "a drive is read-only by read-only=on in drive=",
    "report": "counters are in 'faultline qmp query-blockstats'",
    "s": "write --nbd SOCKET for NBD, --control SOCKET for QMP",
    "selinux-label": _NBDKIT,
    "serial": _GUEST,
    "smp": _GUEST,
    "snapshot": "images are written to: qemu-img create -b makes an overlay for that",
    "socket": "write --nbd SOCKET for NBD, --control SOCKET for QMP",
    "t": "write --threads N",
    "swap": _NBDKIT,
    "tls-creds": _TLS,
    "tls-verify-peer": _NBDKIT,
    "trace": _LOG,
    "u": "write --nbd SOCKET",
    "unix": "write --nbd SOCKET",
    "v": "write --log-level debug",
    "verbose": "write --log-level debug",
}

_CLIENT: Final = {
    "a": "all are shown",
    "all": "all are shown",
    "c": "write -s SOCKET",
    "connect": "write -s SOCKET",
    "format": _JSON,
    "host": "the control socket is a Unix socket: -s PATH",
    "id": "the ID is typed alone",
    "j": _JSON,
    "job": "the ID is typed alone",
    "job-id": "the ID is typed alone",
    "json": _JSON,
    "o": _JSON,
    "output": _JSON,
    "path": "write -s SOCKET",
    "port": "the control socket is a Unix socket: -s PATH",
    "pretty": _JSON,
    "qmp": "write -s SOCKET",
    "raw": _JSON,
    "speed": "write SPEED behind ID, such as 10M",
    "t": "write --timeout SECONDS",
    "tcp": "the control socket is a Unix socket: -s PATH",
    "u": "write -s SOCKET",
    "unix": "write -s SOCKET",
    "wait": "a machine is there when 'faultline serve' has printed its line",
}

_IMAGES: Final = {"disk", "hda", "hdb", "image", "img", "sda", "size", "vda"}
"""Options by which people mean a drive."""

_EVENTS: Final = {
    "f": "events are followed anyway",
    "follow": "events are followed anyway",
    "limit": "write --count N",
    "max": "write --count N",
    "n": "write --count N",
    "num": "write --count N",
}

_COMPLETION = "_FAULTLINE_COMPLETE=bash_source faultline prints it; also zsh_source, fish_source"

_TOP: Final = {
    "completion": _COMPLETION,
    "install-completion": _COMPLETION,
    "show-completion": _COMPLETION,
    "v": "write --version",
    "verbose": "'faultline serve' logs all events on stderr",
}

_COMMANDS: Final[Meanings] = {
    **dict.fromkeys(
        ("start", "run", "server", "launch", "up", "create", "new", "begin", "nbdkit", "nbd"),
        ("serve",),
    ),
    **dict.fromkeys(("query", "exec", "execute", "send", "command", "call"), ("qmp",)),
    **dict.fromkeys(("log", "tail", "follow", "watch", "listen", "logs"), ("events",)),
    **dict.fromkeys(("faults", "inject", "fail", "break", "rule", "rules"), ("fault",)),
    **dict.fromkeys(("list", "ps", "machines"), ("ls", "jobs")),
    **dict.fromkeys(("top", "info", "show", "state"), ("status",)),
    "wait-event": ("wait", "events"),
}

_FAULTS = "'faultline qmp x-fault-add' makes requests fail, x-query-faults lists what does"

_TOP_COMMANDS: Final = {
    "?": "'faultline --help' lists the commands",
    "completion": _COMPLETION,
    "fault": _FAULTS,
    "faults": _FAULTS,
    "help": "'faultline --help' lists the commands",
    "hmp": "there is no monitor for people: 'faultline qmp' sends one command",
    "inject": _FAULTS,
    "kill": "'faultline qmp quit' ends a machine",
    "ls": "'faultline jobs' lists jobs, 'faultline qmp query-block' drives",
    "list": "'faultline jobs' lists jobs, 'faultline qmp query-block' drives",
    "monitor": "'faultline events' follows a machine, 'faultline qmp' sends one command",
    "qmp-shell": "'faultline qmp' sends one command; a shell is in Python's package qemu.qmp",
    "shell": "'faultline qmp' sends one command; a shell is in Python's package qemu.qmp",
    "shutdown": "'faultline qmp quit' ends a machine",
    "status": "'faultline qmp query-status' and query-block tell it",
    "top": "'faultline qmp query-status' and query-block tell it",
    "version": "write faultline --version",
}

_JOB_COMMANDS: Final[Meanings] = {
    "abort": ("cancel",),
    "commit": ("complete",),
    "continue": ("resume",),
    "delete": ("cancel",),
    "finish": ("complete",),
    "follow": ("wait",),
    "forget": ("dismiss",),
    "kill": ("cancel",),
    "limit": ("set-speed",),
    "pivot": ("complete",),
    "progress": ("wait",),
    "remove": ("dismiss",),
    "rm": ("dismiss",),
    "speed": ("set-speed",),
    "stop": ("pause",),
    "throttle": ("set-speed",),
    "unpause": ("resume",),
    "watch": ("wait",),
}

_JOB_TEXTS: Final = {
    "create": "jobs are begun by 'faultline qmp block-stream' and others",
    "info": "'faultline jobs' lists them",
    "list": "'faultline jobs' lists them",
    "ls": "'faultline jobs' lists them",
    "query": "'faultline jobs' lists them",
    "show": "'faultline jobs' lists them",
    "start": "jobs are begun by 'faultline qmp block-stream' and others",
    "status": "'faultline jobs' lists them",
    "stop": "pause lets it go on later, cancel ends it",
}


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
    if command == "events" and name in _EVENTS:
        return f": {_EVENTS[name]}"
    letter = [one for one in known if one[2:3] == name]
    if len(letter) == 1:
        return f", did you mean '{letter[0]}'?"
    if name in _CLIENT:
        return f": {_CLIENT[name]}"
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
    if drive_option(name) or name in _IMAGES:
        return f": it is an option of a drive, as in {EXAMPLE}"
    letter = word.lstrip("-")
    instead = _SERVE.get(letter) or _SERVE.get(name)
    return "" if instead is None else f": {instead}"


def _for_all(ctx: click.Context, word: str) -> str:
    name = plain(word)
    if name.endswith("completion") and "completion" in _commands(ctx):
        return ": write faultline completion SHELL"
    if name in _TOP:
        return f": {_TOP[name]}"
    if name in ("s", "socket", "control"):
        return ": it goes behind the command, as in faultline qmp -s SOCKET query-status"
    for command in _commands(ctx):
        assert isinstance(ctx.command, click.Group)
        owner = ctx.command.get_command(ctx, command)
        if owner and word in {one for param in owner.params for one in param.opts}:
            return f": it is an option of 'faultline {command}', and goes behind that"
    if name in _SERVE or name in MACHINE_KEYS or drive_option(name):
        return f": the command comes first, as in faultline serve {EXAMPLE}"
    return ""


def _commands(ctx: click.Context) -> list[str]:
    assert isinstance(ctx.command, click.Group)
    return ctx.command.list_commands(ctx)


def command(ctx: click.Context, typed: str, known: Collection[str]) -> str:
    """Return the message about a command that a group does not have; `known` are its own."""
    message = f"No such command '{typed}'"
    if ctx.command_path.partition(" ")[2]:
        meant = did_you_mean(typed, known, _JOB_COMMANDS)
        if typed in _JOB_TEXTS:
            return f"{message}: {_JOB_TEXTS[typed]}"
        return f"{message}{meant or f': it is {either(sorted(known))}'}"
    return message + _top_command(typed, known)


def _top_command(typed: str, known: Collection[str]) -> str:
    if (hint := did_you_mean(typed, known, _COMMANDS)) and typed not in _TOP_COMMANDS:
        return hint
    if typed in _TOP_COMMANDS and nearest(typed, known) is None:
        for name in _COMMANDS.get(typed, ()):
            if name in known and name != "jobs":
                return f", did you mean '{name}'?"
        return f": {_TOP_COMMANDS[typed]}"
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
    if low is not None and high is not None:
        return f"'{typed}' is no number from {low:g} to {high:g}"
    return f"'{typed}' is no number" + (f" of {low:g} or more" if low else "")
