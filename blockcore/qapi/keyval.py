# SPDX-License-Identifier: MIT
"""Parsers of the two ``key=value,...`` syntaxes of QEMU's command line, and of dotted keys.

``-drive`` and ``-device`` use QemuOpts: one flat level, on which every value is
a string.  ``-blockdev`` uses keyval: dots in a key make structures, numbers in
a key make lists.  Both syntaxes write a comma inside a value as ``,,``.  The
parsers return strings; these are converted later, those of keyval by the
schema, those of QemuOpts by the ``opt_`` functions.

Messages are those of QEMU 7.2 (`util/keyval.c`, `util/qemu-option.c`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from blockcore.qapi.errors import QmpError

Tree = str | int | bool | dict[str, "Tree"] | list["Tree"]
"""A nested value; its leaves are strings, or what JSON gave."""

_FRAGMENT = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]*|[0-9]+|__[a-z0-9.-]+_[a-zA-Z][a-zA-Z0-9_-]*")
_FRAGMENT_MAX = 127
_IDENTIFIER = re.compile(r"[a-zA-Z][a-zA-Z0-9._-]*")
_KEY_END = re.compile(r"[=,]|$")
_VALUE = re.compile(r"(?:[^,]|,,)*")
_IMPLIED = re.compile(r"(?:[^,=]|,,)*")
_DOWNSTREAM = re.compile(r"__[a-z0-9.-]+_[^.]*")
NESTING_MAX = 64
"""Levels of objects and lists under dotted keys, as of nodes that are defined in each other.

Far fewer than Python's stack has frames: parsing such keys and opening such nodes is recursive.
"""


def well_formed_id(name: str) -> bool:
    """Return whether `name` may be an id or a node-name (id_wellformed)."""
    return _IDENTIFIER.fullmatch(name) is not None


def _pieces(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield keys and values; the value is None if there is no ``=``.

    ``,,`` stands for a comma in values only: a key ends at ``=`` or at any comma.
    """
    position = 0
    while position < len(text):
        end = _KEY_END.search(text, position)
        assert end is not None
        key = text[position : end.start()]
        if end.group() != "=":
            position = end.start() + 1
            yield key, None
            continue
        value = _VALUE.match(text, end.end())
        assert value is not None
        position = value.end() + 1
        yield key, value.group().replace(",,", ",")


def _first_value(text: str) -> tuple[str, str]:
    """Return the leading value of an implied key (or "") and the text behind it."""
    value = _IMPLIED.match(text)
    assert value is not None
    if text[value.end() : value.end() + 1] == "=":
        return "", text
    return value.group().replace(",,", ","), text[value.end() + 1 :]


def parse_opts(text: str, implied: str | None = None) -> dict[str, str]:
    """Parse QemuOpts, and return its keys and values (opts_do_parse).

    Of repeated keys the last wins, except `id`, of which the first wins.  A bare
    ``key`` is the deprecated form of ``key=on``, ``nokey`` of ``key=off``.  A
    leading bare word is the value of the `implied` key.
    """
    result: dict[str, str] = {}
    if implied is not None:
        value, text = _first_value(text)
        if value:
            result[implied] = value
    for key, given in _pieces(text):
        if given is None:
            key, given = (key[2:], "off") if key.startswith("no") else (key, "on")
        if key != "id" or key not in result:
            result[key] = given
    return result


def parse_keyval(text: str, implied: str | None = None) -> dict[str, Tree]:
    """Parse keyval, and return nested dicts and lists with string leaves (keyval_parse).

    Raises QmpError for a malformed key, for a missing ``=``, and if keys
    contradict each other about the shape of a member.
    """
    root: dict[str, Tree] = {}
    if implied is not None:
        value, text = _first_value(text)
        if value:
            root[implied] = value
    for key, given in _pieces(text):
        if given is None:
            raise QmpError(f"Expected '=' after parameter '{key}'")
        _insert(root, _fragments(key), given)
    result = _listify(root, "")
    assert isinstance(result, dict)
    return result


def _fragments(key: str) -> list[str]:
    """Split a dotted key into fragments, of which the first must be a name (keyval_parse_one)."""
    fragments = key.split(".")
    if key.startswith("__"):  # downstream names have dots in their prefix
        fragments = _downstream(key)
    for fragment in fragments:
        if len(fragment) > _FRAGMENT_MAX:
            raise QmpError(f"Parameter '{key}' is too long")
        if not _FRAGMENT.fullmatch(fragment):
            raise QmpError(f"Invalid parameter '{key}'")
    if fragments[0].isdigit():
        raise QmpError(f"Invalid parameter '{key}'")
    return fragments


def _downstream(key: str) -> list[str]:
    """Split a dotted key that begins with a downstream prefix, ``__RFQDN_``."""
    match = _DOWNSTREAM.match(key)
    if match is None:
        raise QmpError(f"Invalid parameter '{key}'")
    rest = key[match.end() :]
    return [match.group(), *rest[1:].split(".")] if rest else [match.group()]


def _insert(root: dict[str, Tree], fragments: list[str], value: str) -> None:
    """Put a value into a tree of dicts; a later value of a key replaces an earlier one."""
    if len(fragments) > NESTING_MAX:
        raise QmpError(f"Parameter '{fragments[0]}' nests too deeply")
    node = root
    for depth, fragment in enumerate(fragments[:-1], 1):
        child = node.setdefault(fragment, {})
        if not isinstance(child, dict):
            raise _inconsistent(".".join(fragments[:depth]))
        node = child
    if isinstance(node.get(fragments[-1]), dict):
        raise _inconsistent(".".join(fragments))
    node[fragments[-1]] = value


def _inconsistent(name: str) -> QmpError:
    return QmpError(f"Parameters '{name}.*' used inconsistently")


def _listify(node: Tree, name: str) -> Tree:
    """Return a tree with lists for dicts whose keys are all numbers (keyval_listify)."""
    # From the leaves up.  A dict without numeric keys stays a dict; one with both kinds of key is
    # an error; one with numeric keys only must have each number from 0 on.
    if not isinstance(node, dict):
        return node
    prefix = f"{name}." if name else ""
    members = {key: _listify(child, prefix + key) for key, child in node.items()}
    indices = [key for key in members if key.isdigit()]
    if not indices:
        return members
    if len(indices) != len(members):
        raise _inconsistent(name)
    by_index = {int(key): child for key, child in members.items()}
    for index in range(len(by_index)):
        if index not in by_index:
            raise QmpError(f"Parameter '{name}.{index}' missing")
    return [by_index[index] for index in range(len(by_index))]


def flatten(
    tree: Mapping[str, Tree], prefix: str = "", level: int = 0
) -> dict[str, str | int | bool]:
    """Return the leaves of nested dicts and lists under dotted keys (qdict_flatten).

    Raises QmpError if there are more than `NESTING_MAX` levels.
    """
    if level >= NESTING_MAX:
        raise QmpError("JSON nesting depth limit exceeded")
    flat: dict[str, str | int | bool] = {}
    for key, value in tree.items():
        if isinstance(value, list):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}.", level + 1))
        else:
            flat[prefix + key] = value
    return flat


def crumple(flat: Mapping[str, str]) -> dict[str, Tree]:
    """Return the nested dicts and lists of dotted keys, the reverse of `flatten` (qdict_crumple).

    Raises QmpError for keys that `parse_keyval` refuses.
    """
    root: dict[str, Tree] = {}
    for key, value in flat.items():
        _insert(root, _fragments(key), value)
    result = _listify(root, "")
    assert isinstance(result, dict)
    return result
