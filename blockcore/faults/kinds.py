# SPDX-License-Identifier: MIT
"""The kinds of fault, by the `action` that names them.

A new kind is a module with a subclass of `FaultOptions`, and a line here.  What
QMP takes and shows of rules follows.
"""

from __future__ import annotations

from blockcore.faults.fail import Fail
from blockcore.faults.options import FaultOptions
from blockcore.qapi.schema import FlatUnion

KINDS: dict[str, type[FaultOptions]] = {
    "error": Fail,
}

FAULT_OPTIONS = FlatUnion(
    "FaultOptions", tag="action", base=FaultOptions, variants=KINDS, default="error"
)
