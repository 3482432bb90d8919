# SPDX-License-Identifier: MIT
"""The file of `serve --config`: a machine and the options of `serve`, as a JSON object.

Members are keys, the lists of keys that may be repeated, and options without their
dashes.  The command line has precedence.  docs/config.md describes the file for users.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, NoReturn

import click

from blockcore.qapi.nearest import did_you_mean
from blockcore.qapi.record import dataclass

LISTS = {"drives": "drive", "blockdevs": "blockdev", "devices": "device", "faults": "fault"}
"""Members that are lists, each with the key of its elements."""

KEYS = (
    *("control", "prelaunch", "job-error-check", "qemu", "seed", "name", "record", "record-data"),
    "allow-backing", "x-sticky-io-status",
)
"""Members that are keys."""

NBDKIT = "nbdkit"
"""The member with what would be behind ``--``."""

NOT_IN_FILES = frozenset({"standby", "control", "record"})
"""Options that are no members; control and record are keys as well."""

INSTEAD = {
    "nbd": ("port", "address"),
    "port": ("nbd", "socket-mode", "socket-group"),
    "quiet": ("log-level",),
    "log-level": ("quiet",),
    "tls-psk": ("tls-certificates",),
    "tls-certificates": ("tls-psk",),
    "run": ("daemonize",),
    "daemonize": ("run", "timeout"),
}
"""Options on the command line, and members that make no sense beside each."""

MEMBER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]*")


@dataclass(slots=True)
class ConfigFile:
    """What a file says: keys as on the command line, and options by their names.

    `places` are where in the file the keys come from, for each key in order.
    """

    keys: list[str] = field(default_factory=list)
    places: dict[str, list[str]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    nbdkit: list[str] = field(default_factory=list)

    def add(self, key: str, value: str, place: str) -> None:
        """Add a key."""
        self.keys.append(f"{key}={value}")
        self.places.setdefault(key, []).append(place)

    def without(self, typed: Iterable[str]) -> ConfigFile:
        """Return this without the keys, of those that may not be repeated, that were typed."""
        gone = set(typed) & set(KEYS)
        keys = [key for key in self.keys if key.partition("=")[0] not in gone]
        places = {key: self.places[key] for key in self.places if key not in gone}
        return ConfigFile(keys, places, self.options, self.nbdkit)


def read_config(path: str, options: Sequence[click.Option], ctx: click.Context) -> ConfigFile:
    """Read a file; raises ClickException, with the place in it, for what makes no sense.

    `options` are those of the command.  What keys mean is checked by the machine.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except OSError as exc:
        raise click.ClickException(f"{path}: {exc.strerror}") from exc
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno}, column {exc.colno}"
        raise click.ClickException(f"{path}: {where}: {exc.msg}") from exc
    except (ValueError, RecursionError) as exc:
        raise click.ClickException(f"{path}: {exc}") from exc
    known = {_name(option): option for option in options}
    if not isinstance(content, dict):
        raise click.ClickException(f"{path}: the file is no JSON object")
    return _Reader(path, {name: known[name] for name in known if name not in NOT_IN_FILES}).read(
        content, ctx
    )


def machine_keys(path: str, content: Mapping[str, Any]) -> ConfigFile:
    """Return the keys of members that a file of another kind has in common with this one.

    `path` is that file; raises ClickException, with the place in it.
    """
    return _Reader(path, {}).read(content)


def completed(
    path: str, ctx: click.Context, typed: Mapping[str, Any], behind: Sequence[str]
) -> tuple[dict[str, Any], Sequence[str]]:
    """Return the values of the options and what is behind ``--``, with what a file adds.

    `typed` are the values on the command line, by parameter names; None or False stands
    for an option not given.  Keys that may be repeated are the file's first, then those of the
    command line.
    """
    options = [
        option
        for option in ctx.command.params
        if isinstance(option, click.Option) and option.name in typed
    ]
    file = read_config(path, options, ctx)
    names = {_name(option): option.name or "" for option in options}
    # By identity: 0 is a port, and equal to False.
    absent = {name for name, own in names.items() if typed[own] is None or typed[own] is False}
    given = names.keys() - absent
    useless = {other for name in given for other in INSTEAD.get(name, ())} | given
    added = {names[name]: value for name, value in file.options.items() if name not in useless}
    control = ("control",) if typed["control"] is not None else ()
    rest = file.without([*(key.partition("=")[0] for key in typed["keys"]), *control])
    keys = (*rest.keys, *typed["keys"])
    values = {**typed, **added, "keys": keys, "places": json.dumps(rest.places)}
    return values, behind or file.nbdkit


def _name(option: click.Option) -> str:
    return next(name for name in option.opts if name.startswith("--")).removeprefix("--")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; raises ValueError for a member that is given twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the member '{name}' is given twice")
        found[name] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


@dataclass(frozen=True, slots=True)
class _Reader:
    path: str
    options: Mapping[str, click.Option]

    def read(
        self, content: Mapping[str, Any], ctx: click.Context | None = None
    ) -> ConfigFile:
        file = ConfigFile()
        for name, value in content.items():
            if name == "faults" and isinstance(value, str):
                file.add(name, self._text(name, value), f"{self.path}: {name}")
            elif name in LISTS:
                self._add_list(file, name, value)
            elif name in KEYS:
                file.add(name, self._text(name, value), f"{self.path}: {name}")
            elif name == NBDKIT:
                file.nbdkit = self._words(name, value)
            elif name in self.options and ctx is not None:
                file.options[name] = self._option(name, value, ctx)
            else:
                known = [*LISTS, *KEYS, NBDKIT, *self.options]
                self._refuse(name, f"there is no such member{did_you_mean(name, known)}")
        return file

    def _refuse(self, place: str, text: str) -> NoReturn:
        raise click.ClickException(f"{self.path}: {place}: {text}")

    def _add_list(self, file: ConfigFile, name: str, value: Any) -> None:
        if not isinstance(value, list):
            self._refuse(name, "it is a list, with an object for each")
        key = LISTS[name]
        for number, item in enumerate(value):
            place = f"{name}[{number}]"
            if isinstance(item, str):
                text = item
            elif not isinstance(item, dict):
                self._refuse(place, f"it is an object, or a string as behind {key}=")
            elif key == "blockdev":
                text = json.dumps(item)
            else:
                text = ",".join(self._pairs(place, "", item))
            file.add(key, text, f"{self.path}: {place}")

    def _pairs(self, place: str, prefix: str, value: Any) -> list[str]:
        """Return NAME=VALUE for each member of an object or list, with dotted names."""
        if isinstance(value, list):
            value = {str(number): item for number, item in enumerate(value)}
        pairs = []
        for name, item in value.items():
            inside = f"{place}.{name}"
            if not prefix and not MEMBER.fullmatch(name):
                self._refuse(inside, "this can be no member")
            if isinstance(item, dict | list):
                pairs += self._pairs(inside, f"{prefix}{name}.", item)
            else:
                text = self._text(inside, item).replace(",", ",,")
                pairs.append(f"{prefix}{name}={text}")
        return pairs

    def _text(self, place: str, value: Any) -> str:
        """Return a scalar as it is typed; a list of directories is joined."""
        if place == "allow-backing" and isinstance(value, list):
            return ":".join(self._words(place, value))
        if isinstance(value, bool):
            return "on" if value else "off"
        if not isinstance(value, str | int | float):
            self._refuse(place, "it is a text, a number, or true or false")
        text = str(value)
        if "\0" in text:
            self._refuse(place, "there is a NUL in it")
        return text

    def _words(self, place: str, value: Any) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._refuse(place, "it is a list of texts")
        return [self._text(place, item) for item in value]

    def _option(self, name: str, value: Any, ctx: click.Context) -> Any:
        option = self.options[name]
        if option.is_flag:
            if not isinstance(value, bool):
                self._refuse(name, "it is true or false")
            return value
        if isinstance(option.type, click.IntRange | click.FloatRange):
            if isinstance(value, bool) or not isinstance(value, int | float):
                self._refuse(name, "it is a number")
            if isinstance(option.type, click.IntRange) and not isinstance(value, int):
                self._refuse(name, "it is a whole number")
        elif not isinstance(value, str):
            self._refuse(name, "it is a text")
        try:
            return option.type.convert(value, option, ctx)
        except click.BadParameter as exc:
            self._refuse(name, exc.message)
