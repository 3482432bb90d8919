# SPDX-License-Identifier: MIT
"""The typed members of node definitions as text: what converts each, driver by driver."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

from blockcore.nodes.definitions.blkdebug_config import enum_value
from blockcore.nodes.definitions.options import BlockdevAioOptions, OnOffAuto, check_node_name
from blockcore.qapi.keyval import opt_bool, opt_number, opt_size
from blockcore.qapi.names import BlockdevDetectZeroesOptions, BlockdevDiscardOptions, QmpError

Convert = Callable[[str, str], Any]
"""From text and the parameter's name to a value, or QmpError."""


def _text(text: str, _name: str) -> str:
    return text


def _one_of(enum: type[StrEnum]) -> Convert:
    return lambda text, _name: enum_value(enum, text)


def _discard(text: str, _name: str) -> BlockdevDiscardOptions:
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

OWN: Final[dict[str, dict[str, Convert]]] = {
    "blkdebug": {"config": _text}
    | dict.fromkeys(
        ("max-transfer", "opt-write-zero", "max-write-zero", "opt-discard", "max-discard"),
        opt_size,
    ),
    "file": {
        "filename": _text,
        "locking": _one_of(OnOffAuto),
        "aio": _one_of(BlockdevAioOptions),
        "x-physical-size": opt_size,
        "x-extent-size": opt_size,
        "x-short-write": opt_bool,
    },
    "nbd": {"export": _text, "reconnect-delay": opt_number, "open-timeout": opt_number},
    "null-co": {"size": opt_size, "latency-ns": opt_number, "read-zeroes": opt_bool},
    "qcow2": {
        "lazy-refcounts": opt_bool,
        "x-drop-bitmaps": opt_bool,
        "pass-discard-request": opt_bool,
        "pass-discard-snapshot": opt_bool,
        "pass-discard-other": opt_bool,
        "cache-size": opt_size,
        "l2-cache-size": opt_size,
        "l2-cache-entry-size": opt_size,
        "refcount-cache-size": opt_size,
        "cache-clean-interval": opt_number,
    },
    "raw": {"offset": opt_size, "size": opt_size},
}
