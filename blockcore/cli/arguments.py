# SPDX-License-Identifier: MIT
"""The arguments of a QMP command as a shell user writes them: key=value words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click


def parse_arguments(words: Iterable[str]) -> dict[str, Any]:
    """Parse words into an arguments object; ``a.b=1`` becomes ``{"a": {"b": 1}}``.

    Raises UsageError for a word without a key, a key given twice, and a key
    that is both a value and an object.
    """
    arguments: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        *parents, member = key.split(".")
        if not equals or not all((*parents, member)):
            raise click.UsageError(f"{word!r} is not KEY=VALUE")
        target = arguments
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise click.UsageError(f"{key!r} contradicts an argument before it")
        if member in target:
            raise click.UsageError(f"{key!r} is given twice")
        target[member] = parse_value(value)
    return arguments


def parse_value(text: str) -> Any:
    """Return the value that `text` is in JSON, or `text` itself if it is no JSON.

    A user who needs the string 1 types it with JSON's quotes: ``"1"``.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python reads as numbers; JSON and QMP have neither."""
    raise ValueError(name)
