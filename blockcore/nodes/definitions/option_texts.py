# SPDX-License-Identifier: MIT
"""The functions that convert text to the typed members of node definitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from blockcore.nodes.definitions.blkdebug_config import enum_value
from blockcore.nodes.definitions.options import BLOCKDEV_OPTIONS, BlockdevOptions, check_node_name
from blockcore.qapi.names import (
    BlockdevDetectZeroesOptions,
    BlockdevDiscardOptions,
    QmpError,
    Size,
    UInt32,
    UInt64,
)
from blockcore.qapi.texts import opt_bool, opt_number, opt_size

Convert = Callable[[str, str], Any]
"""A function that takes the text and the key, and returns the value or raises QmpError."""


def _text(text: str, _name: str) -> str:
    return text


def _one_of(enum: type[StrEnum]) -> Convert:
    return lambda text, _name: enum_value(enum, text)


def _discard(text: str, _name: str) -> BlockdevDiscardOptions:
    # ``-drive`` takes two spellings of each value (bdrv_parse_discard_flags), QAPI one.
    if text in ("unmap", "on"):
        return BlockdevDiscardOptions.UNMAP
    if text in ("ignore", "off"):
        return BlockdevDiscardOptions.IGNORE
    raise QmpError("Invalid discard option")


def _node_name(text: str, _name: str) -> str:
    check_node_name(text)
    return text


COMMON: Final[dict[str, Convert]] = {
    "node-name": _node_name,
    "discard": _discard,
    "cache.direct": opt_bool,
    "cache.no-flush": opt_bool,
    "read-only": opt_bool,
    "auto-read-only": opt_bool,
    "force-share": opt_bool,
    "detect-zeroes": _one_of(BlockdevDetectZeroesOptions),
}
"""The keys that every driver takes."""


@cache
def own_texts(driver: str) -> dict[str, Convert]:
    """Return converters for the members that only `driver` has, by key.

    They follow from the types of the members.  A plain integer is a size in bytes.
    Children, structs and lists are left out: `flat_options` treats them.
    """
    cls: Any = BLOCKDEV_OPTIONS.variants[driver]
    hints = get_type_hints(cls)
    common = {field.name for field in fields(BlockdevOptions)}
    own = [field.name for field in fields(cls) if field.name not in common]
    found = {name.replace("_", "-"): _convert_to(hints[name]) for name in own}
    return {key: convert for key, convert in found.items() if convert is not None}


def _convert_to(hint: Any) -> Convert | None:
    """Return the converter for an annotation, without its None; None if text has no such type."""
    types = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kind, *more = (one for one in types if one is not NoneType)
    if more:
        return None
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return _one_of(kind)
    return _BY_TYPE.get(kind)


_BY_TYPE: Final[dict[Any, Convert]] = {
    str: _text,
    bool: opt_bool,
    int: opt_size,
    Size: opt_size,
    UInt32: opt_number,
    UInt64: opt_number,
}
