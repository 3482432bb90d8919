"""Declare once, derive everything: the types, their wire form, commands and events.

A command is a function.  Its first positional parameter is the machine, its
keyword-only parameters are the QMP arguments (annotated as `qapitypes` says; a
default makes one optional), its return annotation is the return type (None:
the empty object), its docstring is the help text.

    table = CommandTable()

    @table.command("query-status")
    def query_status(machine: Machine) -> StatusInfo: ...

    @table.command("blockdev-add", boxed=True)
    def blockdev_add(
        machine: Machine, *, options: Annotated[BlockdevOptionsBase, BLOCKDEV_OPTIONS]
    ) -> None: ...

With `boxed` the one parameter stands for the whole argument object.  A
coroutine function is recognised as such (`Command.is_coroutine`).  Annotations
are looked up when a command is first used.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import cached_property
from typing import Any, Final, TypeVar, get_type_hints

from blockcore.qapi import QmpError
from blockcore.qmp.qapitypes import (
    Alternate,
    FlatUnion,
    Member,
    Struct,
    parse,
    qapi_type,
    refuse_others,
    visit_members,
    wire_name_of,
)
from blockcore.qmp.visitor import Name, Null, QapiType

__all__ = [
    "Alternate",
    "Command",
    "CommandTable",
    "FlatUnion",
    "Member",
    "Null",
    "Struct",
    "parse",
    "qapi_type",
    "to_wire",
]

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


@dataclasses.dataclass(frozen=True, eq=False)
class Command:
    """One entry of a table: the function and what its signature says."""

    name: str
    function: Callable[..., Any]
    boxed: bool
    wire_names: Callable[[str], str]
    is_coroutine: bool
    features: tuple[str, ...] = ()

    @property
    def help(self) -> str:
        """The function's docstring."""
        return inspect.getdoc(self.function) or ""

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The keyword-only parameters, in order of declaration."""
        return tuple(
            Member(
                parameter.name,
                self.wire_names(parameter.name),
                qapi_type(self._hints[parameter.name]),
                optional=parameter.default is not parameter.empty,
            )
            for parameter in inspect.signature(self.function).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        )

    @cached_property
    def returns(self) -> QapiType | None:
        """The return type; None for the empty object."""
        annotation = self._hints["return"]
        return None if annotation is type(None) else qapi_type(annotation)

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return get_type_hints(self.function, include_extras=True)

    def bind(self, arguments: dict[str, Any], *, keyval: bool = False) -> dict[str, Any]:
        """The function's keyword arguments for `arguments`; QmpError if they do not fit."""
        name = Name(keyval=keyval)
        try:
            if self.boxed:
                (only,) = self.members
                return {only.python_name: only.type.visit(arguments, name)}
            bound = visit_members(self.members, arguments, name)
        except RecursionError:
            # The parser admits 1024 levels; Python's stack ends before ours do.
            raise QmpError("JSON nesting depth limit exceeded") from None
        refuse_others(self.members, arguments, name)
        return bound


class CommandTable:
    """Commands by name and event classes by name, in order of registration."""

    def __init__(self) -> None:
        self.commands: dict[str, Command] = {}
        self.events: dict[str, Any] = {}

    def command(
        self,
        name: str,
        *,
        boxed: bool = False,
        underscores: bool = False,
        wire_names: Mapping[str, str] | None = None,
        features: tuple[str, ...] = (),
    ) -> Callable[[F], F]:
        """Register the decorated function as QMP command `name`.

        `underscores` keeps ``_`` in all argument names (block_set_io_throttle);
        `wire_names` gives single irregular ones by their Python names.
        `features` is for clients that look into the schema (``deprecated``).
        """
        irregular = wire_names or {}

        def wire_name(python_name: str) -> str:
            regular = python_name if underscores else python_name.replace("_", "-")
            return irregular.get(python_name, regular)

        def register(function: F) -> F:
            is_coroutine = inspect.iscoroutinefunction(function)
            self._add(Command(name, function, boxed, wire_name, is_coroutine, features))
            return function

        return register

    def event(self, cls: C) -> C:
        """Register an event dataclass under its NAME; usable as a decorator."""
        name: str = cls.NAME  # type: ignore[attr-defined]
        assert name not in self.events, name
        self.events[name] = cls
        return cls

    def include(self, other: CommandTable) -> None:
        """Take over everything that `other` has by now."""
        for command in other.commands.values():
            self._add(command)
        for cls in other.events.values():
            self.event(cls)

    def _add(self, command: Command) -> None:
        assert command.name not in self.commands, command.name
        self.commands[command.name] = command

    def __iter__(self) -> Iterator[Command]:
        return iter(self.commands.values())


def to_wire(value: Any) -> Any:
    """`value` in terms of JSON: dataclasses become objects without their None members.

    None elsewhere (in a dict of unknown structure, as a result) is JSON's null.
    """
    convert = _CONVERTERS[type(value)]
    return value if convert is None else convert(value)


class _Converters(dict[type, Callable[[Any], Any] | None]):
    """How instances of a class are converted, worked out once; None: they are JSON already."""

    def __missing__(self, cls: type) -> Callable[[Any], Any] | None:
        self[cls] = converter = _converter(cls)
        return converter


_CONVERTERS: Final = _Converters()


def _converter(cls: type) -> Callable[[Any], Any] | None:
    if issubclass(cls, Enum):
        return lambda value: value.value
    if issubclass(cls, (list, tuple)):
        return lambda value: [to_wire(item) for item in value]
    if issubclass(cls, dict):
        return lambda value: {key: to_wire(item) for key, item in value.items()}
    if not dataclasses.is_dataclass(cls):
        return None
    names = [(field.name, wire_name_of(cls, field.name)) for field in dataclasses.fields(cls)]

    def convert(value: Any) -> dict[str, Any]:
        return {
            wire_name: item if type(item) is int else to_wire(item)
            for name, wire_name in names
            if (item := getattr(value, name)) is not None
        }

    return convert
