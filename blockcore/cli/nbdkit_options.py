# SPDX-License-Identifier: MIT
"""Options of nbdkit that `serve` passes on: what is behind ``--`` on its command line.

Options go in front of the plugin, and parameters of filters behind its keys.
Options by which nbdkit would listen, fork or log in another way than the machine
expects are refused, with what to use instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import field
from importlib import import_module

import click

from blockcore.qapi.record import dataclass

_WITH_ARGUMENT = {
    **{"-D": "--debug", "-e": "--exportname", "-g": "--group", "-i": "--ipaddr"},
    **{"-P": "--pidfile", "-p": "--port", "-t": "--threads", "-U": "--unix", "-u": "--user"},
    **{"--export": "--exportname", "--export-name": "--exportname", "--ip-addr": "--ipaddr"},
    **{"--pid-file": "--pidfile"},
    **{name: name for name in ("--filter", "--log", "--mask-handshake", "--run", "--timeout")},
    **{name: name for name in ("--selinux-label", "--tls", "--tls-certificates", "--tls-psk")},
}
"""Options that take an argument, each with the name that it has here."""

_WITHOUT_ARGUMENT = {
    **{"-4": "--ipv4-only", "-6": "--ipv6-only", "-f": "--foreground", "-h": "--help"},
    **{"-n": "--newstyle", "-o": "--oldstyle", "-r": "--readonly", "-s": "--single"},
    **{"-V": "--version", "-v": "--verbose", "--new-style": "--newstyle"},
    **{"--no-fork": "--foreground", "--old-style": "--oldstyle", "--read-only": "--readonly"},
    **{"--stdin": "--single", "--no-meta-contexts": "--no-mc"},
    **{name: name for name in ("--dump-config", "--dump-plugin", "--exit-with-parent")},
    **{name: name for name in ("--keepalive", "--no-mc", "--no-sr", "--print-uri", "--swap")},
    **{name: name for name in ("--long-options", "--short-options", "--tls-verify-peer")},
    **{name: name for name in ("--vsock",)},
}

_NAMES = {
    **_WITH_ARGUMENT,
    **_WITHOUT_ARGUMENT,
    **{name: name for name in (*_WITH_ARGUMENT.values(), *_WITHOUT_ARGUMENT.values())},
}

_TAKES_ARGUMENT = {*_WITH_ARGUMENT, *_WITH_ARGUMENT.values()}

_ALONE = "nbdkit itself answers that: nbdkit"

_INSTEAD = {
    "--dump-config": f"{_ALONE} --dump-config",
    "--dump-plugin": f"{_ALONE} python --dump-plugin",
    "--exit-with-parent": "use serve --exit-with-parent",
    "--foreground": "the machine is in the foreground without --daemonize",
    "--group": "start faultline as a member of that group, or use serve --socket-group",
    "--help": f"{_ALONE} --help",
    "--ipaddr": "use serve --address ADDRESS",
    "--ipv4-only": "use serve --address 0.0.0.0",
    "--ipv6-only": "use serve --address with an IPv6 address",
    "--log": "use serve --log-file FILE",
    "--long-options": f"{_ALONE} --long-options",
    "--pidfile": "use serve --pidfile FILE",
    "--port": "use serve --port N",
    "--print-uri": "the ready line has the URIs",
    "--run": "use serve --run COMMAND",
    "--short-options": f"{_ALONE} --short-options",
    "--single": "the machine serves on sockets, not on standard input",
    "--threads": "use serve --threads N",
    "--unix": "use serve --nbd SOCKET",
    "--user": "start faultline as that user",
    "--version": f"{_ALONE} --version",
    "--vsock": "the machine serves on Unix and TCP sockets",
}
"""Options that are refused, and what to do."""

_PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9._-]*=")


@dataclass(slots=True)
class NbdkitOptions:
    """What is passed on: `options` in front of the plugin, `parameters` behind its keys.

    `tls` are those of nbdkit's options for TLS that decide how clients connect, by
    their names.
    """

    options: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    tls: dict[str, str] = field(default_factory=dict)


def parse_nbdkit_options(words: Sequence[str]) -> NbdkitOptions:
    """Sort the words behind ``--``; raises UsageError for one that is refused.

    As getopt_long does, this takes options anywhere, long ones also shortened, and short
    ones together.  Options that are not known here, of a newer nbdkit, are passed on.
    """
    parsed = NbdkitOptions()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            _take_long(word, rest, parsed)
        elif word.startswith("-") and word != "-":
            _take_short(word, rest, parsed)
        else:
            parsed.parameters.append(_parameter(word))
    return parsed


def _take_long(word: str, rest: list[str], parsed: NbdkitOptions) -> None:
    typed, equals, value = word.partition("=")
    name = _long_name(typed)
    if name in _TAKES_ARGUMENT and not equals:
        value = _argument(typed, rest)
    _take(typed, name, value if equals or name in _TAKES_ARGUMENT else None, parsed)


def _take_short(word: str, rest: list[str], parsed: NbdkitOptions) -> None:
    letters = word[1:]
    while letters:
        typed, letters = f"-{letters[0]}", letters[1:]
        value = None
        if typed in _TAKES_ARGUMENT:
            value, letters = letters or _argument(typed, rest), ""
        _take(typed, _NAMES.get(typed, typed), value, parsed)


def _take(typed: str, name: str, value: str | None, parsed: NbdkitOptions) -> None:
    if name in _INSTEAD:
        raise click.UsageError(f"{typed} of nbdkit: {_INSTEAD[name]}")
    if value is not None and name.startswith("--tls"):
        if name in parsed.tls:
            raise click.UsageError(f"{name} is given twice")
        parsed.tls[name] = value
    else:
        parsed.options.append(name if value is None else f"{name}={value}")


def _long_name(typed: str) -> str:
    """Return the option that is meant: the one named so, or the only one that begins so."""
    if typed in _NAMES:
        return _NAMES[typed]
    meant = {_NAMES[name] for name in _NAMES if name.startswith(typed)}
    return meant.pop() if len(meant) == 1 else typed


def _argument(typed: str, rest: list[str]) -> str:
    if not rest:
        raise click.UsageError(f"{typed} of nbdkit requires an argument")
    return rest.pop(0)


def _parameter(word: str) -> str:
    """Return a filter's parameter; raises UsageError for anything else."""
    if not _PARAMETER.match(word):
        raise click.UsageError(f"'{word}' behind -- is neither an option nor KEY=VALUE")
    key = word.partition("=")[0]
    # The module takes long to import.
    if key in import_module("blockcore.process.hints").MACHINE_KEYS:
        raise click.UsageError(f"{key}= belongs in front of --")
    return word
