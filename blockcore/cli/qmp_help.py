# SPDX-License-Identifier: MIT
"""The help of QMP commands, as text: all of them in a list, or the members of one.

What a command takes comes from the schema of a server, and what it does from
`help_texts`: only this project's commands have any, QEMU tells none.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

from blockcore.cli.schema import Alternate, Array, Enum, Member, Object, Scalar, Schema, Type

WIDTH = 80

DEPTH_MAX = 2
"""Levels of objects whose members are shown; nodes may be defined in nodes, without end."""

VALUES_MAX = 16
"""Values of an enum that are shown; blkdebug has 45 events."""

_SCALARS = {
    "boolean": "on|off",
    "int": "NUMBER",
    "null": "null",
    "number": "DECIMAL",
    "string": "TEXT",
    "value": "JSON",
}


def listed(schema: Schema, texts: Mapping[str, str]) -> str:
    """Return a line for each command, in alphabetical order."""
    names = sorted(schema.commands, key=lambda name: (name.startswith("x-"), name))
    column = min(max(map(len, names)), 27) + 2
    lines = []
    for name in names:
        lines += _columns(name, texts.get(name, "").partition("\n")[0], column)
    return "\n".join(lines)


def described(
    schema: Schema, command: str, texts: Mapping[str, str], case: str | None = None
) -> str:
    """Return what a command does and takes.

    `case` restricts the members to those that go with that value of the tag.
    """
    owner = schema.arguments(command)
    lines = [f"Usage: faultline qmp {command} [KEY=VALUE]...", ""]
    for paragraph in filter(None, texts.get(command, "").split("\n\n")):
        lines += [*_wrapped(paragraph, "  ", "  "), ""]
    marks = [feature for feature in schema.features(command) if feature != "unstable"]
    if marks:
        lines += [f"  It is {', '.join(marks)}.", ""]
    members = list(_members(schema, owner, "", case))
    if not members:
        return "\n".join([*lines, "It takes no arguments."])
    lines += ["Arguments:", *members]
    if any("NUMBER" in line for line in members):
        lines += ["", "A NUMBER may have a binary suffix: k, M, G, T."]
    return "\n".join(lines)


def _members(schema: Schema, owner: Object, prefix: str, case: str | None) -> Iterator[str]:
    """Yield the lines of a command's members, then those of each case."""
    for member in sorted(owner.members, key=lambda member: member.optional):
        yield from _member(schema, member, prefix, 0)
    for value, name in owner.variants.items():
        variant = schema.type(name)
        assert isinstance(variant, Object)
        if case in (None, value) and (variant.members or variant.variants):
            yield ""
            yield f"With {prefix}{owner.tag}={value}:"
            yield from _members(schema, variant, prefix, None)


def _inner(schema: Schema, owner: Object, prefix: str, depth: int) -> Iterator[str]:
    """Yield the lines of a nested object's members.

    One with many cases is a node, whose members are those of `blockdev-add`; or an
    action of a transaction, whose members are those of the command with its name.
    """
    many = len(owner.variants) > 3
    for member in sorted(owner.members, key=lambda member: member.optional):
        if not many or member.name == owner.tag:
            yield from _member(schema, member, prefix, depth)
    if many:
        yield from _columns(f"  {prefix}KEY=VALUE", f"others, by {prefix}{owner.tag}", 34)
        return
    for value, name in owner.variants.items():
        for member in schema.members(_object(schema, name)).values():
            yield from _member(schema, member, prefix, depth, f"with {owner.tag}={value}")


def _object(schema: Schema, name: str) -> Object:
    found = schema.type(name)
    assert isinstance(found, Object)
    return found


def _member(
    schema: Schema, member: Member, prefix: str, depth: int, remark: str = ""
) -> Iterator[str]:
    type_ = schema.type(member.type)
    key = f"{prefix}{member.name}"
    remarks = [] if member.optional else ["required"]
    remarks += [feature for feature in member.features if feature == "deprecated"]
    remarks += filter(None, [remark])
    inner = list(_inside(schema, type_, key, depth))
    if not (inner and isinstance(type_, Object)):
        yield from _columns(f"  {key}={_text(schema, type_)}", " ".join(remarks), 34)
    yield from inner


def _inside(schema: Schema, type_: Type, key: str, depth: int) -> Iterator[str]:
    """Yield the lines of what is inside of a member: of objects, and of objects in lists."""
    if depth >= DEPTH_MAX:
        return
    for choice in schema.scalars(type_):
        if isinstance(choice, Object):
            yield from _inner(schema, choice, f"{key}.", depth + 1)
        elif isinstance(choice, Array):
            yield from _inside(schema, schema.type(choice.element), f"{key}.0", depth + 1)


def _text(schema: Schema, type_: Type) -> str:
    """Return what stands for a value of a type in a command line."""
    match type_:
        case Scalar():
            return _SCALARS[type_.json]
        case Enum() if len(type_.values) > VALUES_MAX:
            return f"{'|'.join(type_.values[:VALUES_MAX])}|..."
        case Enum():
            return "|".join(type_.values)
        case Array():
            return "LIST"
        case Alternate():
            texts = dict.fromkeys(_text(schema, choice) for choice in schema.choices(type_))
            return "|".join(sorted(texts, key=lambda text: text == "OBJECT"))
    return "OBJECT"


def _columns(left: str, right: str, column: int) -> list[str]:
    """Return lines with `right` beside `left`, or below it if there is no room."""
    lines = [left]
    if len(left) > WIDTH:
        lines = _wrapped(left.replace("|", " | "), "", "      ")
    if not right:
        return lines
    blanks = " " * column
    if len(lines) > 1 or len(left) + 2 > column:
        return [*lines, *_wrapped(right, blanks, blanks)]
    return _wrapped(right, f"{left:<{column}}", blanks)


def _wrapped(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()) if not text.startswith(" ") else text,
        WIDTH - 1,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )
