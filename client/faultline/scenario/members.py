# SPDX-License-Identifier: MIT
"""What a file says of commands and events, checked by the types of the schema.

The schema is what the library itself is written from: the methods of `Commands` and
the types of `faultline.schema`.
"""

from __future__ import annotations

import errno
import inspect
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from faultline.names import right_names
from faultline.scenario.values import ScenarioError, Value
from faultline.schema import ARGUMENTS, EVENT_DATA, BlockdevOptions
from faultline.sizes import in_bytes
from faultline.sync.commands import Commands

COMMANDS = {name.replace("_", "-"): name for name in vars(Commands) if not name.startswith("_")}
"""The commands, each with its method."""

INSTEAD = {"node": "node-name", "device": "node-name", "drive": "node-name", "error": "errno"}
"""What people write in a fault rule, and what it is called."""


class Taken(Exception):
    """A command has been made of its arguments: its name, and these as they are sent."""

    def __init__(self, command: str, arguments: Mapping[str, Any]) -> None:
        self.command = command
        self.arguments = {key: value for key, value in arguments.items() if value is not None}


class _Taker(Commands):
    def _run(self, command: str, members: Mapping[str, Any], timeout: float | None) -> Any:
        raise Taken(command, members)


def is_command(name: str) -> bool:
    """Return whether there is a command of a name, which may be typed with ``_`` or ``-``."""
    return name.replace("_", "-") in COMMANDS


def command(name: Value, arguments: Value | None) -> tuple[str, dict[str, Any]]:
    """Return a command and its arguments, as they are sent; raises ScenarioError.

    Sizes may be texts such as ``64k``.
    """
    typed = name.word("the name of a command")
    if not is_command(typed):
        name.wrong(f"there is no command '{typed}'{right_names(typed, COMMANDS)}")
    method = getattr(Commands, COMMANDS[typed.replace("_", "-")])
    given = {} if arguments is None or arguments.data is None else arguments.mapping("a mapping")
    place = name if arguments is None else arguments
    named = _arguments(method, typed, given, place)
    try:
        method(_Taker(), **named)
    except Taken as taken:
        return taken.command, taken.arguments
    raise AssertionError(typed)


def _arguments(method: Any, typed: str, given: Mapping[str, Value], place: Value) -> dict[str, Any]:
    """Return the arguments of a command's method."""
    parameters = dict(list(inspect.signature(method).parameters.items())[1:])
    parameters.pop("timeout")
    kinds = get_type_hints(method)
    known = {name.replace("_", "-"): name for name in parameters if name != "members"}
    if "members" in parameters:
        more = members_of(ARGUMENTS[typed.replace("_", "-")])
        kinds |= {name.replace("-", "_"): kind for name, (kind, _) in more.items()}
        known |= {name: name.replace("-", "_") for name in more}
    named: dict[str, Any] = {}
    for name, value in given.items():
        parameter = known.get(name.replace("_", "-"))
        if parameter is None:
            value.wrong(f"{typed} has no argument '{name}'{_instead(typed, name, known)}")
        named[parameter] = _checked(value, kinds[parameter])
    for one in parameters.values():
        needed = one.kind is one.KEYWORD_ONLY and one.default is one.empty
        if needed and one.name not in named:
            place.wrong(f"{typed} needs '{one.name.replace('_', '-')}'")
    return named


def _instead(command: str, name: str, known: Mapping[str, Any]) -> str:
    meant = INSTEAD.get(name) if command == "x-fault-add" else None
    return f", did you mean '{meant}'?" if meant else right_names(name, known)


def rule(value: Value) -> dict[str, Any]:
    """Return the members of a fault rule, which are the arguments of x-fault-add."""
    name = Value("x-fault-add", value.file, value.line, value.field, "x-fault-add")
    if not isinstance(value.data, dict):
        value.wrong("it is a mapping, with the members of x-fault-add")
    _, members = command(name, value)
    given = members.get("errno")
    if isinstance(given, str) and not given.isdigit() and given not in errno.errorcode.values():
        names = set(errno.errorcode.values())
        value.data["errno"].wrong(f"there is no errno '{given}'{right_names(given, names)}")
    return members


def node(value: Value) -> Any:
    """Return the definition of a node, as blockdev-add takes it, or a text as -blockdev does."""
    return value.text if value.text is not None else _checked(value, BlockdevOptions)


def check_event(name: Value) -> str:
    """Return the name of an event; raises ScenarioError."""
    typed = name.word("the name of an event")
    if typed not in EVENT_DATA:
        written = typed.upper().replace("-", "_")
        hint = f", did you mean '{written}'?" if written in EVENT_DATA else None
        name.wrong(f"there is no event '{typed}'{hint or right_names(written, EVENT_DATA)}")
    return typed


def check_event_member(event: str, name: str, value: Value) -> None:
    """Raise ScenarioError if an event has no member of a name, or not of a value's kind."""
    kinds = members_of(EVENT_DATA[event])
    if name not in kinds:
        hint = right_names(name, kinds) if kinds else ": it has no members"
        value.wrong(f"{event} has no member '{name}'{hint}")
    kind, _ = kinds[name]
    if value.text is not None and get_origin(kind) is Literal:
        _checked(value, kind)


def members_of(cls: Any) -> dict[str, tuple[Any, bool]]:
    """Return the types of a TypedDict's members, and whether each has to be there."""
    found = {}
    for name, kind in get_type_hints(cls, include_extras=True).items():
        optional = get_origin(kind) is NotRequired
        found[name] = (get_args(kind)[0] if optional else kind, not optional)
    return found


def _checked(value: Value, kind: Any) -> Any:
    """Return a value as it is sent, of a type of the schema; raises ScenarioError."""
    if kind is Any:
        return value.plain()
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _any_of(value, get_args(kind))
    if origin is Literal:
        return _choice(value, get_args(kind))
    if origin is list:
        return [_checked(item, get_args(kind)[0]) for item in value.items("values")]
    if is_typeddict(kind):
        return _object(value, kind)
    return _scalar(value, kind)


def _any_of(value: Value, kinds: tuple[Any, ...]) -> Any:
    """Return a value of the first type that fits; a text is the last."""
    kinds = tuple(kind for kind in kinds if kind is not NoneType)
    if str in kinds and int in kinds and isinstance(value.data, str):
        # A size, where it may be one; a name, such as that of an errno, where it may be a number.
        return value.data
    if isinstance(value.data, list):
        kinds = tuple(kind for kind in kinds if get_origin(kind) is list) or kinds
    elif len(kinds) > 1:
        kinds = tuple(kind for kind in kinds if get_origin(kind) is not list)
    for kind in sorted(kinds, key=lambda kind: kind is str):
        try:
            return _checked(value, kind)
        except ScenarioError:
            if len(kinds) == 1 or get_origin(kind) is Literal:
                raise
    return value.wrong(f"'{value.text or value.plain()}' is of the wrong kind")


def _choice(value: Value, known: tuple[str, ...]) -> str:
    """Return a value of an enumeration, as it was typed: ``off`` is no boolean there."""
    if value.text not in known:
        typed = value.text or str(value.plain())
        value.wrong(f"'{typed}' is no such value{right_names(typed, known)}")
    return value.text


def _object(value: Value, cls: Any) -> dict[str, Any]:
    kinds = members_of(cls)
    found = {}
    for name, member in value.mapping("a mapping").items():
        if name not in kinds:
            member.wrong(f"there is no member '{name}'{right_names(name, kinds)}")
        found[name] = _checked(member, kinds[name][0])
    for name, (_, required) in kinds.items():
        if required and name not in found:
            value.wrong(f"it needs '{name}'")
    return found


def _scalar(value: Value, kind: Any) -> Any:
    data = value.data
    if kind is str and value.text is not None and data is not None:
        return value.text
    if kind is bool and isinstance(data, bool):
        return data
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        return data
    if kind is int and isinstance(data, int) and not isinstance(data, bool):
        return data
    if kind is int and isinstance(data, str):
        try:
            return in_bytes(data)
        except ValueError as exc:
            value.wrong(str(exc))
    expected = {bool: "true or false", int: "a number, such as 512 or 64k", float: "a number"}
    return value.wrong(f"it is {expected.get(kind, 'a text')}")
