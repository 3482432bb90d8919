# SPDX-License-Identifier: MIT
"""The parser of ``fault=``: the arguments of x-fault-add, as keyval or as a JSON object."""

from __future__ import annotations

from typing import Annotated

from blockcore.faults.kinds import FAULT_OPTIONS
from blockcore.faults.options import FaultOptions
from blockcore.qapi.json.stream import parse_json
from blockcore.qapi.keyval import parse_keyval
from blockcore.qapi.types import parse


def parse_fault(text: str) -> FaultOptions:
    """Parse the value of ``fault=``; a leading bare word is the node's name.

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
