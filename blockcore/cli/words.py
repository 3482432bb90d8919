# SPDX-License-Identifier: MIT
"""The arguments of a QMP command as a shell user writes them: KEY=VALUE words.

Words become a tree (`tree`), in which a dotted key is a path and a leaf has the
texts that were given for it.  The schema of the server says what a text means
(`arguments`): ``name=0`` is the string 0, ``size=10M`` a number of bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import click

from blockcore.cli.answers import KEYS, VALUES
from blockcore.cli.schema import Array, Enum, Member, Object, Scalar, Schema, Type
from blockcore.qapi.nearest import as_size, either, nearest, right_answers
from blockcore.qapi.texts import BOOLEANS, number, size

Tree = dict[str, Any]
"""Keys with a tree, or with the list of the texts that were given."""

OPEN = frozenset({"device_add"})
"""Commands of QEMU that take more members than its schema shows (``'gen': false``)."""

_DECIMAL = re.compile(r"[+-]?[0-9]{1,20}")

_EXAMPLES = {
    "int": "a number, such as 1048576, 0x100000 or 1M",
    "number": "a number, such as 0.5",
    "boolean": "on or off",
    "null": "null",
}


class WrongArguments(click.UsageError):
    """The error for words that the command cannot mean; `see` is the command that helps."""

    def __init__(self, message: str, command: str) -> None:
        super().__init__(message)
        self.see = f"faultline qmp {command} --help"


def without_key(schema: Schema, command: str, word: str) -> WrongArguments:
    """Return the error for a word that is not KEY=VALUE, with the key that was probably meant."""
    members = schema.members(schema.arguments(command))
    hint = ""
    if not members:
        hint = ": it takes no arguments"
    elif word.startswith("{"):
        hint = f": {pairs}" if (pairs := as_pairs(word)) else ""
    elif (name := nearest(word, members)) is not None:
        switch = schema.type(members[name].type) == Scalar("boolean")
        hint = f": write {name}={'on' if switch else 'VALUE'}"
    elif "=" not in word:
        first = min(members.values(), key=lambda member: member.optional)
        hint = f", did you mean {first.name}={word}?"
    return WrongArguments(f"'{word}' is not KEY=VALUE{hint}", command)


def as_pairs(text: str) -> str:
    """Return the words for an object in JSON; empty if it is none, or has objects in it."""
    try:
        given = _instance(_json(text), dict)
    except ValueError:
        return ""
    if any(isinstance(value, dict | list) for value in given.values()):
        return ""
    return " ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in given.items()
    )


def tree(words: Iterable[str], command: str) -> Tree:
    """Return the words as a tree; ``a.b=1`` becomes ``{"a": {"b": ["1"]}}``.

    Raises WrongArguments for a word without a key, and for a key that is both a value
    and an object.
    """
    top: Tree = {}
    for word in words:
        key, equals, value = word.partition("=")
        *parents, member = key.split(".")
        if not equals or not all((*parents, member)):
            raise WrongArguments(f"'{word}' is not KEY=VALUE", command)
        target: Any = top
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise WrongArguments(f"'{key}' contradicts an argument before it", command)
        texts = target.setdefault(member, [])
        if not isinstance(texts, list):
            raise WrongArguments(f"'{key}' contradicts an argument before it", command)
        texts.append(value)
    return top


def untyped(value: Any, name: str = "") -> Any:
    """Return a tree as JSON, without a schema: texts that are JSON are taken as such.

    Raises UsageError for a key that was given twice.
    """
    if isinstance(value, dict):
        return {key: untyped(item, f"{name}.{key}" if name else key) for key, item in value.items()}
    if len(value) > 1:
        raise click.UsageError(f"'{name}' is given twice")
    try:
        return _json(value[0])
    except ValueError:
        return value[0]


def arguments(schema: Schema, command: str, words: Tree) -> dict[str, Any]:
    """Return the arguments of a command that the words stand for.

    Raises WrongArguments for the first member, in the order in which they were typed,
    that is unknown, then for a value that is wrong, then for what is missing.
    """
    owner = schema.arguments(command)
    if command in OPEN:
        known = schema.members(owner).keys()
        more = untyped({key: value for key, value in words.items() if key not in known})
        words = {key: value for key, value in words.items() if key in known}
        return {**_Words(schema, command).object(owner, words, ""), **more}
    return _Words(schema, command).object(owner, words, "")


class _Words:
    """The words of one command, on their way to JSON."""

    def __init__(self, schema: Schema, command: str) -> None:
        self._schema = schema
        self._command = command

    def object(self, type_: Object, words: Tree, path: str) -> dict[str, Any]:
        known = self._schema.members(type_, self._case(type_, words, path))
        for name in words:
            if name not in known:
                hint = self._instead_of(name, known, path)
                raise self._wrong(f"Parameter '{path}{name}' is unexpected{hint}")
        values = {
            name: self.value(self._schema.type(known[name].type), value, f"{path}{name}")
            for name, value in words.items()
        }
        for member in known.values():
            if not member.optional and member.name not in words:
                if type_.tag in words or member in type_.members:
                    raise self._wrong(f"Parameter '{path}{member.name}' is missing")
        return values

    def _instead_of(self, name: str, known: Mapping[str, Member], path: str) -> str:
        """Return a clause about an unknown member: what it is called, or where it belongs."""
        if not known:
            return ": it takes no arguments"
        if (hint := right_answers(name, known, KEYS)).startswith(","):
            return hint
        for member in known.values():
            for choice in self._schema.scalars(self._schema.type(member.type)):
                if isinstance(choice, Enum) and name in choice.values:
                    return f", did you mean {path}{member.name}={name}?"
        # What must be given comes first: a file is below `file` rather than below `backing`.
        for member in sorted(known.values(), key=lambda member: member.optional):
            for choice in self._schema.scalars(self._schema.type(member.type)):
                place = f"{path}{member.name}"
                if isinstance(choice, Array):
                    choice, place = self._schema.type(choice.element), f"{place}.0"
                if isinstance(choice, Object) and name in self._schema.members(choice):
                    return f", did you mean '{place}.{name}'?"
        return hint

    def _case(self, type_: Object, words: Tree, path: str) -> str | None:
        """Return the value of the tag, checked; None if there is none."""
        if type_.tag is None or not isinstance(words.get(type_.tag), list):
            return None
        (tag,) = (member for member in type_.members if member.name == type_.tag)
        case = self.value(self._schema.type(tag.type), words[type_.tag], f"{path}{tag.name}")
        assert isinstance(case, str)
        return case

    def value(self, type_: Type, words: Any, name: str) -> Any:
        if isinstance(words, dict):
            return self._nested(type_, words, name)
        if isinstance(type_, Array) and not (len(words) == 1 and words[0].startswith("[")):
            element = self._schema.type(type_.element)
            return [self.value(element, [text], f"{name}.{at}") for at, text in enumerate(words)]
        return self._text(type_, self._only(words, name), name)

    def _nested(self, type_: Type, words: Tree, name: str) -> Any:
        """Return the object or list that dotted keys describe."""
        for choice in self._schema.scalars(type_):
            if isinstance(choice, Object):
                return self.object(choice, words, f"{name}.")
            if isinstance(choice, Array):
                return self._list(choice, words, name)
            if choice == Scalar("value"):
                return untyped(words, name)
        member = f"{name}.{next(iter(words))}"
        raise self._wrong(f"Parameter '{member}' is unexpected: '{name}' has no members")

    def _list(self, type_: Array, words: Tree, name: str) -> list[Any]:
        """Return the list whose elements have the keys 0, 1 and so on."""
        if set(words) != set(map(str, range(len(words)))):
            raise self._wrong(
                f"Parameter '{name}' is a list: its elements are {name}.0, {name}.1 and so on"
            )
        element = self._schema.type(type_.element)
        order = sorted(words.items(), key=lambda item: int(item[0]))
        return [self.value(element, value, f"{name}.{at}") for at, value in order]

    def _text(self, type_: Type, text: str, name: str) -> Any:
        """Return the value that a text stands for; of an alternate the first that fits."""
        choices = list(self._schema.scalars(type_))
        # The string comes last: every text is one.
        choices.sort(key=lambda choice: choice == Scalar("string"))
        for choice in choices:
            try:
                return self._of(choice, text)
            except ValueError:
                pass
        raise self._wrong(self._expected(choices, text, name))

    def _of(self, type_: Type, text: str) -> Any:
        """Return the value of one type that a text stands for; ValueError if it is none."""
        found: Any
        match type_:
            case Scalar("string"):
                return text
            case Scalar("int"):
                return _integer(text)
            case Scalar("number"):
                found = number(text)
            case Scalar("boolean"):
                found = BOOLEANS.get(text.lower())
            case Scalar("null"):
                if text == "null":
                    return None
                raise ValueError(text)
            case Scalar("value"):
                return untyped([text])
            case Enum():
                found = text if text in type_.values else None
            case Array():
                return self._several(type_, text)
            case _:
                return _instance(_json(text), dict)
        if found is None:
            raise ValueError(text)
        return found

    def _several(self, type_: Array, text: str) -> list[Any]:
        """Return the list that JSON is, or values of an enum with commas between."""
        element = self._schema.type(type_.element)
        parts = text.split(",")
        if isinstance(element, Enum) and all(part in element.values for part in parts):
            return parts
        found: list[Any] = _instance(_json(text), list)
        return found

    def _expected(self, choices: list[Type], text: str, name: str) -> str:
        """Return the message for a text that is of none of these types."""
        enums = [choice for choice in choices if isinstance(choice, Enum)]
        others = [choice for choice in choices if not isinstance(choice, Enum | Array)]
        if enums and not others:
            return f"Parameter '{name}' does not accept value '{text}'{_values(enums[0], text)}"
        expected = either([self._described(choice, name) for choice in choices])
        hint = _percent(text) or as_size(text) or _joined(text)
        return f"Parameter '{name}' expects {expected}, not '{text}'{hint}"

    def _described(self, type_: Type, name: str) -> str:
        match type_:
            case Scalar():
                return _EXAMPLES.get(type_.json, type_.json)
            case Enum():
                return either(type_.values)
            case Array():
                return f"a list in JSON, or {name}.0=, {name}.1= and so on"
            case Object():
                keys = list(self._schema.members(type_))[:3]
                return f"an object: {', '.join(f'{name}.{key}=' for key in keys)} and so on"
        raise AssertionError(type_)

    def _only(self, texts: list[str], name: str) -> str:
        if len(texts) > 1:
            raise self._wrong(f"'{name}' is given twice")
        return texts[0]

    def _wrong(self, message: str) -> WrongArguments:
        return WrongArguments(message, self._command)


def _integer(text: str) -> int:
    """Return a number, or a number of bytes with a suffix (`texts.size`)."""
    if _DECIMAL.fullmatch(text):
        return int(text)
    negative = text.startswith("-")
    found = size(text.removeprefix("-"))
    if found is None:
        raise ValueError(text)
    return -found if negative else found


def _values(enum: Enum, text: str) -> str:
    """Return a clause with the right values; of several in one word, say that it takes one."""
    parts = [part.strip(' "') for part in text.strip("[]").split(",")]
    if len(parts) > 1 and all(part in enum.values for part in parts):
        return ": it takes one of them; give the command once for each"
    return right_answers(text, enum.values, VALUES)


def _joined(text: str) -> str:
    """Return a clause about ``0,length=4096``, which QEMU's command line would take apart."""
    return ": separate arguments with blanks" if re.search(",[a-z-]+=", text) else ""


def _percent(text: str) -> str:
    """Return a clause with the fraction that a percentage is."""
    if text.endswith("%") and (found := number(text[:-1])) is not None:
        return f" ({text} is {found / 100:g})"
    return ""


def _json(text: str) -> Any:
    """Parse JSON; raises ValueError if it is none."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("too deep") from None


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python reads as numbers; JSON and QMP have neither."""
    raise ValueError(name)


def _instance(value: Any, cls: type) -> Any:
    if not isinstance(value, cls):
        raise ValueError(f"not a {cls.__name__}")
    return value
