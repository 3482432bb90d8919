# SPDX-License-Identifier: MIT
"""What a file expects a command to answer, checked by the type of the answer."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from faultline.names import did_you_mean, right_names
from faultline.scenario.matching import TESTS
from faultline.scenario.members import COMMANDS, members_of
from faultline.scenario.values import ScenarioError, Value
from faultline.sync.commands import Commands


def check_answer(command: str, value: Value) -> None:
    """Raise ScenarioError if no answer of a command can be as `value` wants it.

    Members and values of enumerations are checked; null is a member that may be missing.
    """
    method = getattr(Commands, COMMANDS[command])
    _check(value, _kinds(get_type_hints(method)["return"]))


def _kinds(kind: Any) -> tuple[Any, ...]:
    """Return the types of which a value may be; Any is all."""
    if get_origin(kind) in (Union, UnionType):
        return tuple(one for part in get_args(kind) for one in _kinds(part))
    return () if kind is NoneType else (kind,)


def _check(value: Value, kinds: tuple[Any, ...]) -> None:
    data = value.data
    if data is None or any(kind is Any or get_origin(kind) is dict for kind in kinds):
        return
    if isinstance(data, dict) and len(data) == 1 and next(iter(data)) in TESTS:
        (name, tested) = next(iter(data.items()))
        if name == "one-of":
            for one in tested.items("values"):
                _check(one, kinds)
        elif name == "not":
            _check(tested, kinds)
    elif isinstance(data, dict):
        _check_members(value, data, [kind for kind in kinds if is_typeddict(kind)])
    elif isinstance(data, list):
        elements = [get_args(kind)[0] for kind in kinds if get_origin(kind) is list]
        if not elements:
            value.wrong("the answer has no list there")
        for item in data:
            _check(item, tuple(one for kind in elements for one in _kinds(kind)))
    elif kinds and all(get_origin(kind) is Literal for kind in kinds):
        known = [name for kind in kinds for name in get_args(kind)]
        if value.text not in known:
            value.wrong(f"it is never '{value.text}'{right_names(value.text or '', known)}")
    elif kinds and not any(kind in (str, int, float, bool) for kind in kinds):
        value.wrong(f"the answer has a {'list' if _has_list(kinds) else 'mapping'} there")


def _has_list(kinds: tuple[Any, ...]) -> bool:
    return any(get_origin(kind) is list for kind in kinds)


def _check_members(value: Value, data: dict[str, Value], classes: list[Any]) -> None:
    """Check a mapping: it has to fit one of the classes that the answer may be of."""
    if not classes:
        value.wrong("the answer has no mapping there")
    for at, cls in enumerate(classes):
        kinds = members_of(cls)
        try:
            for name, member in data.items():
                if name in kinds:
                    _check(member, _kinds(kinds[name][0]))
                    continue
                # Only what looks like a slip: a QEMU, on which steps may be played, has a few
                # members that this version has not.
                hint = did_you_mean(name, {name for cls in classes for name in members_of(cls)})
                if hint:
                    member.wrong(f"the answer has no member '{name}'{hint}")
        except ScenarioError:
            if at == len(classes) - 1:
                raise
        else:
            return
