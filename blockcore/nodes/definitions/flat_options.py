# SPDX-License-Identifier: MIT
"""Conversion of flat, untyped options to a typed definition, as bdrv_open does it.

``-drive`` and ``json:`` file names give a node's options as dotted keys, with
text where QAPI has numbers and booleans.  This module divides the options among
the node and its children and converts them to their types.  If a file's format
is not given, the result is a `BlockdevOptionsProbed`, which `with_format` turns
into a definition after the file was probed.

Most functions remove from `flat` the keys that they use; keys that remain at
the end are unknown ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Annotated, Any, Final

from blockcore.nodes.definitions.blkdebug_config import (
    INJECT_ERROR,
    RULE_KEYS,
    SET_STATE,
    inject_error,
    set_state,
)
from blockcore.nodes.definitions.filename import (
    FILENAME_PARSERS,
    Flat,
    parse_filename,
    parse_json_filename,
    protocol_of,
)
from blockcore.nodes.definitions.option_texts import COMMON, Convert, own_texts
from blockcore.nodes.definitions.options import (
    BLOCKDEV_OPTIONS,
    BlockdevOptions,
    BlockdevOptionsBacking,
    BlockdevOptionsProbed,
    BlockdevRef,
)
from blockcore.nodes.definitions.structs import SOCKET_ADDRESS, BlockdevCacheOptions, SocketAddress
from blockcore.qapi.keyval import crumple
from blockcore.qapi.names import QmpError
from blockcore.qapi.schema import Null, parse

FORMATS: Final = frozenset(
    driver for driver, cls in BLOCKDEV_OPTIONS.variants.items() if cls.is_format
)
"""The drivers that say how a file holds a disk; all others count as protocols."""

_CANNOT_REFERENCE: Final = (
    "Cannot reference an existing block device with additional options or a new filename"
)


def open_options(
    options: Mapping[str, str | int | bool], name: str | None = None, *, protocol: bool = False
) -> BlockdevOptions:
    """Return the typed definition of the node that `options` and file name `name` describe.

    Without a driver, the definition asks for probing; with `protocol` the node is
    below a format already, and the prefix of its name decides about the driver.
    Raises QmpError in QEMU's words.
    """
    flat = {key: _as_text(value) for key, value in options.items()}
    if name is not None and name.startswith("json:"):
        given = {key: _as_text(value) for key, value in parse_json_filename(name).items()}
        flat, name = given | flat, None
    driver = flat.pop("driver", None)
    if driver is None:
        driver = _missing_driver(flat, name, protocol)
    if driver is None:
        return _unknown_format(flat, name)
    if driver not in BLOCKDEV_OPTIONS.variants:
        raise QmpError(f"Unknown driver '{driver}'")
    members: dict[str, Any] = {"driver": driver}
    if driver in FORMATS:
        members["file"] = _child(flat, "file", name)
        members |= _format_members(driver, flat)
    else:
        if name is not None:
            flat = _with_name(driver, flat, name)
        members |= _PROTOCOL_MEMBERS.get(driver, _no_more)(flat)
        _refuse_backing(flat)
    members |= _converted(COMMON | own_texts(driver), flat)
    _refuse_rest(driver, flat)
    return _finished(members)


def _as_text(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _unknown_format(flat: dict[str, str], name: str | None) -> BlockdevOptions:
    """Return a definition that asks for probing, with the options of a format kept as text."""
    members: dict[str, Any] = {"driver": "", "file": _child(flat, "file", name)}
    members |= _converted(COMMON, flat)
    for key in flat:
        if not key.startswith("backing.") and key != "backing":
            if not any(key in own_texts(driver) for driver in FORMATS):
                raise QmpError(f"Block format 'raw' does not support the option '{key}'")
    return BlockdevOptionsProbed(**_caches(members), format_options=tuple(flat.items()))


def with_format(options: BlockdevOptionsProbed, driver: str) -> BlockdevOptions:
    """Return the definition of a probed file whose format is `driver`.

    Raises QmpError if the format is not supported or does not have the given options.
    """
    if driver not in FORMATS:
        raise QmpError(
            f"Image format '{driver}', which probing has found, is not supported"
            " (the format raw shows the bytes as they are)"
        )
    flat = dict(options.format_options)
    members: dict[str, Any] = {
        field.name: getattr(options, field.name) for field in fields(BlockdevOptions)
    }
    members |= {"driver": driver, "file": options.file}
    members |= _format_members(driver, flat) | _converted(own_texts(driver), flat)
    _refuse_rest(driver, flat)
    finished = BLOCKDEV_OPTIONS.variants[driver](**members)
    assert isinstance(finished, BlockdevOptions)
    return finished


def _format_members(driver: str, flat: dict[str, str]) -> dict[str, Any]:
    """Take and return the children that a format has besides its `file`: the backing file."""
    if "backing" not in BLOCKDEV_OPTIONS.variants[driver].child_members():
        _refuse_backing(flat)
        return {}
    reference, inner = flat.pop("backing", None), _taken(flat, "backing.")
    if reference == "":
        return {"backing": Null.NULL}
    if inner and reference is not None:
        raise QmpError(f"Could not open backing file: {_CANNOT_REFERENCE}")
    if inner:
        return {"backing": BlockdevOptionsBacking(driver="", flat=tuple(inner.items()))}
    return {} if reference is None else {"backing": reference}


def _refuse_backing(flat: dict[str, str]) -> None:
    """Raise QmpError if a backing file is asked for; ``backing=`` (none) is always allowed."""
    if flat.get("backing") == "":
        del flat["backing"]
    if any(key == "backing" or key.startswith("backing.") for key in flat):
        raise QmpError("Driver doesn't support backing files")


def backing_options(
    options: Iterable[tuple[str, str]], name: str | None, image_format: str | None
) -> BlockdevOptions:
    """Return the definition of a backing file from flat `options` and the image's header.

    The header's name counts unless `options` name a file, and the header's
    format unless `options` have a driver (bdrv_open_backing_file).
    Raises QmpError if the options are wrong.
    """
    flat = dict(options)
    if image_format is not None:
        flat.setdefault("driver", image_format)
    return open_options(flat, None if "file.filename" in flat else name)


def _missing_driver(flat: Flat | dict[str, str], name: str | None, protocol: bool) -> str | None:
    """Return the driver of a node that names none, or None to probe (bdrv_fill_options).

    Below a format the file name decides; elsewhere the format is probed.
    """
    if protocol:
        if name is not None:
            return protocol_of(name)
        if "filename" in flat:
            return "file"
    elif name is not None or any(key == "file" or key.startswith("file.") for key in flat):
        return None
    raise QmpError("Must specify either driver or file")


def _with_name(driver: str, flat: dict[str, str], name: str) -> dict[str, str]:
    if "filename" in flat:
        raise QmpError("Can't specify 'file' and 'filename' options at the same time")
    if driver in FILENAME_PARSERS:
        parsed = FILENAME_PARSERS[driver](name)
    else:  # a filter without file names of its own: the name is its child's
        parsed = {f"file.{key}": value for key, value in parse_filename(name).items()}
    return {key: _as_text(value) for key, value in parsed.items()} | flat


def _child(
    flat: dict[str, str], key: str, name: str | None = None, protocol: bool = True
) -> BlockdevRef:
    """Take the options of child `key` and return a node's name or the child's definition.

    The definition is made from the ``key.`` options and the file name `name`.
    """
    reference = flat.pop(key, None)
    inner = _taken(flat, f"{key}.")
    if reference is not None:
        if inner or name is not None:
            raise QmpError(_CANNOT_REFERENCE)
        return reference
    if not inner and name is None:
        raise QmpError(f'A block device must be specified for "{key}"')
    return open_options(inner, name, protocol=protocol)


def _taken(flat: dict[str, str], prefix: str) -> dict[str, str]:
    """Take the options whose keys begin with `prefix`, and return them without the prefix."""
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


def _caches(members: dict[str, Any]) -> dict[str, Any]:
    """Gather the cache options of `members` in their struct, and check force-share."""
    cache = {
        key: members.pop(f"cache.{key}")
        for key in ("direct", "no_flush")
        if f"cache.{key}" in members
    }
    if cache:
        members["cache"] = BlockdevCacheOptions(**cache)
    if members.get("force_share") and not members.get("read_only"):
        raise QmpError("force-share=on can only be used with read-only images")
    return members


def _finished(members: dict[str, Any]) -> BlockdevOptions:
    members = _caches(members)
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
    """Take the server from ``server.`` keys, or from the older ``path``, ``host`` and ``port``.

    (nbd_process_legacy_socket_options.)
    """
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


def _volatile_cache(flat: dict[str, str]) -> dict[str, Any]:
    return {"file": _child(flat, "file")}


def _rules(flat: dict[str, str], section: str) -> list[dict[str, str]]:
    """Take the options of ``section.0``, ``section.1``... up to the first gap."""
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
    "x-volatile-cache": _volatile_cache,
}
