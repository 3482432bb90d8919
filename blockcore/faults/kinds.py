# SPDX-License-Identifier: MIT
"""The list of the kinds of fault, by the `action` that names them.

A new kind is a module with a subclass of `FaultOptions`, and a line in `KINDS`.
The arguments of x-fault-add and the answer of x-query-faults follow from it.
"""

from __future__ import annotations

from blockcore.faults.bad import BadBlock, ReadOnly
from blockcore.faults.corrupt import Corrupt
from blockcore.faults.delay import Delay
from blockcore.faults.disconnect import Disconnect
from blockcore.faults.fail import Fail
from blockcore.faults.hang import Hang
from blockcore.faults.lost import Drop, Duplicate, Misdirect, Torn
from blockcore.faults.options import FaultOptions
from blockcore.faults.states import SetState
from blockcore.qapi.schema import FlatUnion

KINDS: dict[str, type[FaultOptions]] = {
    "error": Fail,
    "delay": Delay,
    "hang": Hang,
    "drop": Drop,
    "torn": Torn,
    "misdirect": Misdirect,
    "duplicate": Duplicate,
    "corrupt": Corrupt,
    "badblock": BadBlock,
    "disconnect": Disconnect,
    "readonly": ReadOnly,
    "set-state": SetState,
}
"""The class of a rule's options, by its `action`."""

FAULT_OPTIONS = FlatUnion(
    "FaultOptions", tag="action", base=FaultOptions, variants=KINDS, default="error"
)
"""The QAPI union of all kinds; a rule without an `action` fails requests."""
