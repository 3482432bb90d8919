# SPDX-License-Identifier: MIT
"""The tables of commands and events, and the conversion of values to JSON.

A command is a function, and everything about it follows from the declaration.
Its first, positional parameter is the machine.  Its keyword-only parameters are
the QMP arguments, annotated as `types` says; a default makes an argument
optional.  Its return annotation is the return type; None is the empty object.
Its docstring is the help text.

    table = CommandTable()

    @table.command("query-status")
    def query_status(machine: Machine) -> StatusInfo: ...

    @table.command("blockdev-add", boxed=True)
    def blockdev_add(
        machine: Machine, *, options: Annotated[BlockdevOptionsBase, BLOCKDEV_OPTIONS]
    ) -> None: ...

With `boxed`, the only keyword-only parameter gets the whole argument object.  A
coroutine function may await effects (`Command.is_coroutine`).  Annotations are
evaluated when a command is first used.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import cache, cached_property
from typing import Any, Final, TypeVar, get_type_hints

from blockcore.qapi.members import Member, origin_of, refuse_others, visit_members, wire_name_of
from blockcore.qapi.record import dataclass
from blockcore.qapi.types import Alternate, FlatUnion, Struct, parse, qapi_type
from blockcore.qapi.visitor import Name, Null, QapiType

__all__ = [
    "Alternate",
    "Command",
    "CommandTable",
    "FlatUnion",
    "Member",
    "Null",
    "Struct",
    "Wire",
    "parse",
    "qapi_type",
    "to_wire",
    "wire_without",
]

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


@dataclass(frozen=True, eq=False)
class Command:
    """A command of a table.

    `wire_names` maps the Python name of a parameter to its wire name.
    """

    name: str
    function: Callable[..., Any]
    boxed: bool
    wire_names: Callable[[str], str]
    is_coroutine: bool
    features: tuple[str, ...] = ()
    allow_oob: bool = False

    @property
    def help(self) -> str:
        """The function's docstring."""
        return inspect.getdoc(self.function) or ""

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The arguments: the function's keyword-only parameters, in order of declaration."""
        return tuple(
            Member(
                parameter.name,
                self.wire_names(parameter.name),
                qapi_type(self._hints[parameter.name]),
                optional=parameter.default is not parameter.empty,
                origin=f"{self.name}.{self.wire_names(parameter.name)}",
            )
            for parameter in inspect.signature(self.function).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        )

    @cached_property
    def returns(self) -> QapiType | None:
        """The return type, or None for the empty object."""
        annotation = self._hints["return"]
        return None if annotation is type(None) else qapi_type(annotation)

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return get_type_hints(self.function, include_extras=True)

    def bind(
        self,
        arguments: dict[str, Any],
        *,
        keyval: bool = False,
        absent: frozenset[str] = frozenset(),
    ) -> dict[str, Any]:
        """Return the function's keyword arguments for `arguments`, or raise QmpError.

        `keyval` says that all scalars are strings.  Members in `absent` are
        refused as unknown (`qemu.Release.absent`).
        """
        name = Name(keyval=keyval, absent=absent, ours=self.name.startswith("x-"))
        if self.boxed:
            (only,) = self.members
            return {only.python_name: only.type.visit(arguments, name)}
        bound = visit_members(self.members, arguments, name)
        refuse_others(self.members, arguments, name)
        return bound


class CommandTable:
    """The commands and the event classes, both by name, in order of registration."""

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
        allow_oob: bool = False,
    ) -> Callable[[F], F]:
        """Register the decorated function as QMP command `name`.

        `boxed`: the only parameter gets the whole argument object.
        `underscores`: argument names keep ``_`` (block_set_io_throttle).
        `wire_names`: irregular argument names, by Python name.
        `features`: marks in the schema, such as ``deprecated``.
        `allow_oob`: the command may be executed out of band, while another
        command of the same client runs; it must not be a coroutine.
        """
        irregular = wire_names or {}

        def wire_name(python_name: str) -> str:
            regular = python_name if underscores else python_name.replace("_", "-")
            return irregular.get(python_name, regular)

        def register(function: F) -> F:
            is_coroutine = inspect.iscoroutinefunction(function)
            assert not (allow_oob and is_coroutine), name
            self._add(
                Command(name, function, boxed, wire_name, is_coroutine, features, allow_oob)
            )
            return function

        return register

    def event(self, cls: C) -> C:
        """Register an event dataclass under its NAME, and return it."""
        name: str = cls.NAME  # type: ignore[attr-defined]
        assert name not in self.events, name
        self.events[name] = cls
        return cls

    def include(self, other: CommandTable) -> None:
        """Add all commands and events that `other` has now."""
        for command in other.commands.values():
            self._add(command)
        for cls in other.events.values():
            self.event(cls)

    def _add(self, command: Command) -> None:
        assert command.name not in self.commands, command.name
        self.commands[command.name] = command

    def __iter__(self) -> Iterator[Command]:
        return iter(self.commands.values())


class Wire:
    """The conversion of values to JSON, for one release.

    Members and types in `absent` are left out (`qemu.Release.absent`).  The
    converter for a class is made at its first instance, and kept.
    """

    def __init__(self, absent: frozenset[str] = frozenset()) -> None:
        self._absent = absent
        self._converters: dict[type, Callable[[Any], Any] | None] = {}

    def __call__(self, value: Any) -> Any:
        """Return `value` in wire form: dicts, lists, strings, numbers, booleans and None.

        A dataclass becomes a dict without the members that are None.  None
        anywhere else (in a dict or a list, or as `value`) stays: JSON's null.
        """
        convert = self._converter(type(value))
        return value if convert is None else convert(value)

    def _converter(self, cls: type) -> Callable[[Any], Any] | None:
        """Return the converter of a class, or None if its instances are JSON already."""
        # Two threads may come here at the same time: events are converted by the thread that
        # emits them, replies on the main loop without the big lock.  Both then make a converter,
        # and either may be kept, because they are equal.
        try:
            return self._converters[cls]
        except KeyError:
            self._converters[cls] = converter = self._new_converter(cls)
            return converter

    def _new_converter(self, cls: type) -> Callable[[Any], Any] | None:
        if issubclass(cls, Enum):
            return lambda value: value.value
        if issubclass(cls, (list, tuple)):
            return lambda value: [self(item) for item in value]
        if issubclass(cls, dict):
            return lambda value: {key: self(item) for key, item in value.items()}
        return self._struct_converter(cls) if dataclasses.is_dataclass(cls) else None

    def _struct_converter(self, cls: type) -> Callable[[Any], Any]:
        names = [
            (field.name, wire_name_of(cls, field.name))
            for field in dataclasses.fields(cls)
            if origin_of(cls, field.name) not in self._absent
        ]

        def convert(value: Any) -> dict[str, Any]:
            return {
                wire_name: item if type(item) is int else self(item)
                for name, wire_name in names
                if (item := getattr(value, name)) is not None
                and type(item).__name__ not in self._absent
            }

        return convert


@cache
def wire_without(absent: frozenset[str]) -> Wire:
    """Return the conversion for one value of `absent`; all clients share it, and its converters."""
    return Wire(absent)


to_wire: Final = wire_without(frozenset())
"""The conversion that leaves nothing out."""
