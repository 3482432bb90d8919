# SPDX-License-Identifier: MIT
"""Rules as text: the arguments of x-fault-add, as keyval or as a JSON object.

``fault=`` has one of them, and a file of rules one on each line.  Lines that are
blank, or begin with ``#``, are no rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from blockcore.faults.kinds import FAULT_OPTIONS
from blockcore.faults.options import FaultOptions
from blockcore.qapi.json.stream import parse_json
from blockcore.qapi.keyval import parse_keyval
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass
from blockcore.qapi.types import parse


@dataclass(frozen=True, slots=True)
class Line:
    """A rule of a file, and the number of its line, from 1."""

    number: int
    options: FaultOptions


def parse_fault(text: str) -> FaultOptions:
    """Parse a rule; a leading bare word is the node's name.

    Raises QmpError as x-fault-add does, but for what depends on the machine's nodes
    and other rules.
    """
    is_json = text.startswith("{")
    value = parse_json(text) if is_json else parse_keyval(text, "node-name")
    annotation = Annotated[FaultOptions, FAULT_OPTIONS]
    options = parse(annotation, value, keyval=not is_json, ours=True)
    assert isinstance(options, FaultOptions)
    options.check()
    return options


def parse_lines(text: str) -> list[Line]:
    """Parse the text of a file; the first wrong line raises QmpError, whose `where` it is."""
    lines = []
    for number, line in numbered(text):
        try:
            lines.append(Line(number, parse_fault(line)))
        except QmpError as error:
            raise at(number, error) from None
    return lines


def numbered(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that are rules, each with its number."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            yield number, line


def at(number: int, error: QmpError) -> QmpError:
    """Return an error of a rule as one of the line that has the rule."""
    error.where = f"line {number}"
    return error
