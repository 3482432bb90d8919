# SPDX-License-Identifier: MIT
"""What an answer or an event has to have, compared with what it has.

Of a mapping only the members that are named count, of a list only the elements that are
named, in any order; an empty list is one without elements.  A number of bytes may be
written as a size.  A mapping with one of the names of `TESTS` is a comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faultline.scenario.values import Value
from faultline.sizes import in_bytes


def _equal(wanted: Any, got: Any) -> bool:
    if isinstance(got, bool) or isinstance(wanted, bool):
        return wanted is got
    if isinstance(wanted, str) and isinstance(got, int):
        try:
            return in_bytes(wanted) == got
        except ValueError:
            return False
    return bool(wanted == got)


def _number(value: Any) -> float:
    return in_bytes(value) if isinstance(value, str) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "at-least": lambda wanted, got: _is_number(got) and got >= _number(wanted),
    "at-most": lambda wanted, got: _is_number(got) and got <= _number(wanted),
    "not": lambda wanted, got: not _equal(wanted, got),
    "one-of": lambda wanted, got: any(_equal(one, got) for one in wanted),
}
"""Comparisons, each by what a file calls it."""


def wanted(value: Value) -> Any:
    """Return what is wanted, checked; raises ScenarioError for a comparison that is none."""
    if isinstance(value.data, list):
        return [wanted(item) for item in value.data]
    if not isinstance(value.data, dict):
        return value.data
    if len(value.data) == 1 and (name := next(iter(value.data))) in TESTS:
        return _test(name, value.data[name])
    return {name: wanted(member) for name, member in value.data.items()}


def _test(name: str, value: Value) -> dict[str, Any]:
    plain = value.plain()
    if name in ("at-least", "at-most"):
        if isinstance(plain, str):
            try:
                in_bytes(plain)
            except ValueError as exc:
                value.wrong(str(exc))
        elif not _is_number(plain):
            value.wrong("it is a number, such as 512 or 64k")
    elif name == "one-of":
        value.items("values")
    elif isinstance(plain, dict | list):
        value.wrong("it is a text, a number, true or false")
    return {name: plain}


def difference(wanted: Any, got: Any, path: str = "") -> str | None:
    """Return the first thing that is not as wanted, as text; None if there is none.

    >>> difference({"running": False}, {"running": True, "status": "running"})
    'running is true, not false'
    >>> difference([{"device": "vda"}], [{"device": "vdb"}, {"device": "vdc"}])
    'there is no {device: vda}'
    >>> difference({"size": {"at-least": "8M"}}, {"size": 4194304})
    'size is 4194304, not at-least 8M'
    """
    if isinstance(wanted, Mapping):
        if len(wanted) == 1 and (name := next(iter(wanted))) in TESTS:
            if TESTS[name](wanted[name], got):
                return None
            return f"{path or 'it'} is {shown(got)}, not {name} {shown(wanted[name])}"
        return _of_members(wanted, got, path)
    if isinstance(wanted, list):
        return _of_elements(wanted, got, path)
    if _equal(wanted, got):
        return None
    return f"{path or 'it'} is {shown(got)}, not {shown(wanted)}"


def _of_members(wanted: Mapping[str, Any], got: Any, path: str) -> str | None:
    if not isinstance(got, Mapping):
        return f"{path or 'it'} is {shown(got)}, not {shown(wanted)}"
    for name, value in wanted.items():
        place = f"{path}.{name}" if path else name
        if name not in got:
            if value is None or value == {}:
                continue
            return f"{place} is not there"
        found = difference(value, got[name], place)
        if found is not None:
            return found
    return None


def _of_elements(wanted: Sequence[Any], got: Any, path: str) -> str | None:
    if not isinstance(got, list):
        return f"{path or 'it'} is {shown(got)}, not {shown(wanted)}"
    if not wanted and got:
        return f"{path or 'it'} is {shown(got)}, not []"
    if len(wanted) == len(got) == 1:
        return difference(wanted[0], got[0], f"{path}[0]" if path else "")
    for value in wanted:
        if not any(difference(value, one) is None for one in got):
            return f"there is no {shown(value)}{f' in {path}' if path else ''}"
    return None


def shown(value: Any) -> str:
    """Return a value as a file has it, on one line.

    >>> shown({"running": False, "drives": ["vda", None]})
    '{running: false, drives: [vda, null]}'
    """
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {shown(member)}' for name, member in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


@dataclass(frozen=True, slots=True)
class Like:
    """A member of a `Pattern`, which is asked whether a value is as wanted.

    >>> Like({"at-least": "1M"})(2 << 20), str(Like({"at-least": "1M"}))
    (True, '{at-least: 1M}')
    """

    wanted: Any

    def __call__(self, got: Any) -> bool:
        return difference(self.wanted, got) is None

    def __str__(self) -> str:
        return shown(self.wanted)
