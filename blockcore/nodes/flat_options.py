"""From flat, untyped options to a typed definition, as bdrv_open does it.

``-drive`` and ``json:`` file names give a node's options as dotted keys, with
text where QAPI has numbers and booleans.  Here they are shared out among the
node and its children and get their types.  Which format a file without one has
is decided here too (`PROBED_FORMAT`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Final

from blockcore.keyval import crumple, opt_bool, opt_number, opt_size
from blockcore.nodes.blkdebug_config import (
    INJECT_ERROR,
    RULE_KEYS,
    SET_STATE,
    enum_value,
    inject_error,
    set_state,
)
from blockcore.nodes.filename import FILENAME_PARSERS, Flat, parse_json_filename, protocol_of
from blockcore.nodes.options import (
    BLOCKDEV_OPTIONS,
    SOCKET_ADDRESS,
    BlockdevAioOptions,
    BlockdevCacheOptions,
    BlockdevOptions,
    BlockdevRef,
    OnOffAuto,
    SocketAddress,
    check_node_name,
)
from blockcore.qapi import BlockdevDetectZeroesOptions, BlockdevDiscardOptions, QmpError
from blockcore.qmp.schema import parse

PROBED_FORMAT: Final = "raw"
"""The format of an image whose format is not given."""

FORMATS: Final = frozenset({"raw"})
"""Drivers that need a `file` below them; the others are protocols."""

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


_COMMON: Final[dict[str, Convert]] = {
    "node-name": _node_name,
    "discard": _discard,
    "cache.direct": opt_bool,
    "cache.no-flush": opt_bool,
    "read-only": opt_bool,
    "auto-read-only": opt_bool,
    "force-share": opt_bool,
    "detect-zeroes": _one_of(BlockdevDetectZeroesOptions),
}

_OWN: Final[dict[str, dict[str, Convert]]] = {
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
    "raw": {"offset": opt_size, "size": opt_size},
}


def open_options(
    options: Mapping[str, str | int | bool], name: str | None = None, *, protocol: bool = False
) -> BlockdevOptions:
    """The node that `options` and the file name `name` describe, typed.

    A name without a driver is probed for its format, unless `protocol` says
    that the node is below one already.  QmpError in QEMU's words.
    """
    flat = {key: _as_text(value) for key, value in options.items()}
    if name is not None and name.startswith("json:"):
        given = {key: _as_text(value) for key, value in parse_json_filename(name).items()}
        flat, name = given | flat, None
    driver = flat.pop("driver", None)
    if driver is None:
        driver = _missing_driver(flat, name, protocol)
    if driver not in BLOCKDEV_OPTIONS.variants:
        raise QmpError(f"Unknown driver '{driver}'")
    members: dict[str, Any] = {"driver": driver}
    if driver in FORMATS:
        members["file"] = _child(flat, "file", name)
    else:
        if name is not None:
            flat = _with_name(driver, flat, name)
        members |= _PROTOCOL_MEMBERS.get(driver, _no_more)(flat)
    members |= _converted(_COMMON | _OWN[driver], flat)
    _refuse_rest(driver, flat)
    return _finished(members)


def _as_text(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _missing_driver(flat: Flat | dict[str, str], name: str | None, protocol: bool) -> str:
    """bdrv_fill_options: below a format, a name decides; otherwise the format is probed."""
    if protocol:
        if name is not None:
            return protocol_of(name)
        if "filename" in flat:
            return "file"
    elif name is not None or any(key == "file" or key.startswith("file.") for key in flat):
        return PROBED_FORMAT
    raise QmpError("Must specify either driver or file")


def _with_name(driver: str, flat: dict[str, str], name: str) -> dict[str, str]:
    if "filename" in flat:
        raise QmpError("Can't specify 'file' and 'filename' options at the same time")
    parsed = FILENAME_PARSERS[driver](name)
    return {key: _as_text(value) for key, value in parsed.items()} | flat


def _child(flat: dict[str, str], key: str, name: str | None = None) -> BlockdevRef:
    """Take the options of child `key`: a node's name, or ``key.`` options and a file name."""
    reference = flat.pop(key, None)
    inner = _taken(flat, f"{key}.")
    if reference is not None:
        if inner or name is not None:
            raise QmpError(
                "Cannot reference an existing block device"
                " with additional options or a new filename"
            )
        return reference
    if not inner and name is None:
        raise QmpError(f'A block device must be specified for "{key}"')
    return open_options(inner, name, protocol=True)


def _taken(flat: dict[str, str], prefix: str) -> dict[str, str]:
    """Remove what begins with `prefix`, and give it without it."""
    keys = [key for key in flat if key.startswith(prefix)]
    return {key.removeprefix(prefix): flat.pop(key) for key in keys}


def _converted(converters: Mapping[str, Convert], flat: dict[str, str]) -> dict[str, Any]:
    return {
        key.replace("-", "_"): convert(flat.pop(key), key)
        for key, convert in converters.items()
        if key in flat
    }


def _refuse_rest(driver: str, flat: dict[str, str]) -> None:
    for key in flat:
        if driver in FORMATS:
            raise QmpError(f"Block format '{driver}' does not support the option '{key}'")
        raise QmpError(f"Block protocol '{driver}' doesn't support the option '{key}'")


def _finished(members: dict[str, Any]) -> BlockdevOptions:
    cache = {
        key: members.pop(f"cache.{key}")
        for key in ("direct", "no_flush")
        if f"cache.{key}" in members
    }
    if cache:
        members["cache"] = BlockdevCacheOptions(**cache)
    if members.get("force_share") and not members.get("read_only"):
        raise QmpError("force-share=on can only be used with read-only images")
    options = BLOCKDEV_OPTIONS.variants[members["driver"]](**members)
    assert isinstance(options, BlockdevOptions)
    return options


def _no_more(_flat: dict[str, str]) -> dict[str, Any]:
    return {}


def _file(flat: dict[str, str]) -> dict[str, Any]:
    if not flat.get("filename"):
        raise QmpError("The 'file' block driver requires a file name")
    return {}


def _nbd(flat: dict[str, str]) -> dict[str, Any]:
    """The server: ``server.`` keys, or the older ``path``, ``host`` and ``port``."""
    server = _taken(flat, "server.")
    if not server:
        server = {key: flat.pop(key) for key in ("path", "host", "port") if key in flat}
        if "path" in server and "host" in server:
            raise QmpError("path and host may not be used at the same time")
        if "path" not in server and "host" not in server:
            raise QmpError("NBD server address missing")
        server["type"] = "unix" if "path" in server else "inet"
        if "host" in server:
            server.setdefault("port", "10809")
    return {"server": parse(Annotated[SocketAddress, SOCKET_ADDRESS], crumple(server), keyval=True)}


def _blkdebug(flat: dict[str, str]) -> dict[str, Any]:
    members: dict[str, Any] = {"image": _child(flat, "image", flat.pop("x-image", None))}
    if rules := _rules(flat, INJECT_ERROR):
        members["inject_error"] = [inject_error(rule) for rule in rules]
    if rules := _rules(flat, SET_STATE):
        members["set_state"] = [set_state(rule) for rule in rules]
    return members


def _rules(flat: dict[str, str], section: str) -> list[dict[str, str]]:
    """The options of ``section.0``, ``section.1``..."""
    rest = _taken(flat, f"{section}.")
    rules: list[dict[str, str]] = []
    while rule := _taken(rest, f"{len(rules)}."):
        for key in rule:
            if key not in RULE_KEYS[section]:
                raise QmpError(f"[{section}] section doesn't support the option '{key}'")
        rules.append(rule)
    for key in rest:
        raise QmpError(f"Unused option '{key}' for [{section}]")
    return rules


_PROTOCOL_MEMBERS: Final[dict[str, Callable[[dict[str, str]], dict[str, Any]]]] = {
    "blkdebug": _blkdebug,
    "file": _file,
    "nbd": _nbd,
}
