# SPDX-License-Identifier: MIT
"""Parser of blkdebug's rules: the file that `config` names, and flat keys of ``-drive``.

The file consists of ``[inject-error]`` and ``[set-state]`` groups of lines
``key = "value"``.  The quotes are required, text after the closing quote is
ignored, and ``#`` begins a comment in the first column only.
A group may carry an id, ``[inject-error "name"]``.

The messages and the checks are QEMU 7.2's; between groups, also the order of
the checks (qemu_config_foreach, then blkdebug's add_rule).  One message is not
QEMU's: a group or a value that is not closed on its line is a ``parse error``
here, while QEMU's message would contain the line break.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Final, TypeVar

from blockcore.nodes.definitions.structs import InjectError, SetState
from blockcore.qapi.errnos import errno_named
from blockcore.qapi.keyval import well_formed_id
from blockcore.qapi.names import BlkdebugEvent, BlkdebugIOType, QmpError
from blockcore.qapi.texts import opt_bool, opt_number

E = TypeVar("E", bound=StrEnum)
R = TypeVar("R")

Group = tuple[str, dict[str, str], int]
"""A group's name, its options, and the number of the line with which it begins."""

INJECT_ERROR: Final = "inject-error"
SET_STATE: Final = "set-state"

RULE_KEYS: Final = {
    INJECT_ERROR: ("event", "state", "iotype", "errno", "sector", "once", "immediately"),
    SET_STATE: ("event", "state", "new_state"),
}

# QEMU reads these lines with sscanf, which does not backtrack, into fields of 63 and 1023
# characters: hence the possessive quantifiers and their limits.  The last group of each pattern
# is the closing bracket or quote, which sscanf does not insist on.
_NAMED_GROUP = re.compile(r'\[\s*(\S{1,63}+)\s*"([^"]{1,63}+)("?)')
_GROUP = re.compile(r"\[([^\]]{1,63}+)(\]?)")
_PARAMETER = re.compile(r'\s*(\S{1,63}+)(?:\s*=\s*"([^"]{0,1023}+)("?))?')


def parse_blkdebug_config(text: str) -> tuple[list[InjectError], list[SetState]]:
    """Parse the text of a rule file; raise QmpError for the first mistake in it.

    The error's `where` is its line, or that of the group with the mistake.

    As in QEMU, all groups are read before any event is checked, and the
    inject-error rules are made before the set-state rules.
    """
    groups: list[Group] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        with _at(number):
            if line.startswith("[") and (group := _group(line)):
                _end_group(groups)
                groups.append((*group, number))
            else:
                _parameter(line, groups)
    _end_group(groups)
    _check_ids(groups)
    return (
        [_rule(inject_error, group) for group in groups if group[0] == INJECT_ERROR],
        [_rule(set_state, group) for group in groups if group[0] == SET_STATE],
    )


@contextmanager
def _at(line: int) -> Iterator[None]:
    """Give errors of the body the number of a line, unless they have one."""
    try:
        yield
    except QmpError as error:
        error.where = error.where or f"line {line}"
        raise


def _rule(make: Callable[[Mapping[str, str]], R], group: Group) -> R:
    _, options, number = group
    with _at(number):
        return make(options)


def _group(line: str) -> tuple[str, dict[str, str]] | None:
    """Return the name and the id of the group that a line begins, or None if it begins none.

    The id is in the dictionary that will take the group's options.
    """
    options: dict[str, str] = {}
    if match := _NAMED_GROUP.match(line):
        options["id"] = match[2]
    elif not (match := _GROUP.match(line)):
        return None
    if not match[match.re.groups] and len(match[1]) < 63:
        raise QmpError("parse error")
    if match[1] not in RULE_KEYS:
        raise QmpError(f"There is no option group '{match[1]}'")
    return match[1], options


def _parameter(line: str, groups: list[Group]) -> None:
    match = _PARAMETER.match(line)
    if match is None or (match[2] is not None and not match[3] and len(match[2]) < 1023):
        raise QmpError("parse error")
    if not groups:
        raise QmpError("no group defined")
    groups[-1][1][match[1]] = match[2] or ""


def _end_group(groups: list[Group]) -> None:
    """Check the keys and the types of the options in the last group."""
    if not groups:
        return
    name, options, number = groups[-1]
    with _at(number):
        if not well_formed_id(options.get("id", "ok")):
            raise QmpError("Parameter 'id' expects an identifier")
        for key, value in options.items():
            if key not in RULE_KEYS[name] and key != "id":
                raise QmpError(f"Invalid parameter '{key}'")
            _typed(key, value)


def _check_ids(groups: list[Group]) -> None:
    seen = set()
    for name, options, number in groups:
        if "id" not in options:
            continue
        if (name, options["id"]) in seen:
            with _at(number):
                raise QmpError(f"Duplicate ID '{options['id']}' for {name}")
        seen.add((name, options["id"]))


def inject_error(options: Mapping[str, str]) -> InjectError:
    """Make an inject-error rule from untyped options; raise QmpError if one is wrong."""
    event = _event(options)
    typed = {key: _typed(key, value) for key, value in options.items() if key != "id"}
    iotype = options.get("iotype")
    return InjectError(
        event=event,
        state=int(typed.get("state", 0)),
        iotype=None if iotype is None else enum_value(BlkdebugIOType, iotype),
        errno=int(typed.get("errno", errno.EIO)),
        sector=int(typed.get("sector", -1)),
        once=bool(typed.get("once", False)),
        immediately=bool(typed.get("immediately", False)),
    )


def set_state(options: Mapping[str, str]) -> SetState:
    """Make a set-state rule from untyped options; raise QmpError if one is wrong.

    Without new_state, the rule sets state 0 (add_rule's default).
    """
    event = _event(options)
    typed = {key: _typed(key, value) for key, value in options.items() if key != "id"}
    return SetState(
        event=event, state=int(typed.get("state", 0)), new_state=int(typed.get("new_state", 0))
    )


def enum_value(enum: type[E], text: str) -> E:
    """Return the member of `enum` spelt `text`, or raise QmpError (qapi_enum_parse)."""
    try:
        return enum(text)
    except ValueError:
        raise QmpError(f"invalid parameter value: {text}") from None


def _event(options: Mapping[str, str]) -> BlkdebugEvent:
    if "event" not in options:
        raise QmpError("Missing event name for rule")
    return enum_value(BlkdebugEvent, options["event"])


def _typed(key: str, text: str) -> str | int | bool:
    if key in ("once", "immediately"):
        return opt_bool(text, key)
    if key == "errno" and (number := errno_named(text)) is not None:
        return number
    if key in ("state", "new_state", "errno", "sector"):
        # QEMU's numbers are uint64_t, which add_rule assigns to signed fields: -1 wraps.
        number = opt_number(text, key)
        return number - (1 << 64) if number >> 63 else number
    return text
