# SPDX-License-Identifier: MIT
"""The command that adds all rules of a file, or none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from blockcore.bql.effects import Call
from blockcore.commands.fault_checks import (
    check_connection,
    check_place,
    takers_before,
    warnings,
)
from blockcore.commands.faults import check_id
from blockcore.faults.lines import Line, at, numbered, parse_lines
from blockcore.faults.options import FaultOptions
from blockcore.machine.machine import Machine
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable

table = CommandTable()


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultIds:
    """The answer of x-fault-load: the ids of the rules, in the order of their lines.

    `warnings` says why rules hit nothing as things are, each with its line.
    """

    ids: list[str]
    warnings: list[str] | None = None


@table.command("x-fault-load")
async def x_fault_load(machine: Machine, *, text: str) -> FaultIds:
    """Add the rules of a file, whose text this is: one on each line, or none if one is wrong.

    A line is as behind ``fault=``, or a JSON object with the arguments of
    x-fault-add; blank lines and those that begin with # are left out.  An error
    begins with the line's number.  All rules are made at the same moment.
    """
    try:
        return _add_all(machine, await Call(parse_lines, text))
    except QmpError as error:
        place = f"{error.where}: " if error.where else ""
        raise QmpError(f"{place}{error.desc}", error.error_class) from None


def load_faults(machine: Machine, text: str) -> list[str]:
    """Add the rules of a file, or none, and return their lines.

    Raises QmpError, whose `where` is the line.
    """
    _add_all(machine, parse_lines(text))
    return [line for _, line in numbered(text)]


def _add_all(machine: Machine, lines: Sequence[Line]) -> FaultIds:
    named = {line.options.id for line in lines}
    taken = {rule.options.id for _, rule in machine.find.fault_rules()}
    numbers = (f"fault{number}" for number in count())
    free = (name for name in numbers if name not in taken and name not in named)
    found: dict[BlockNode, list[FaultOptions]] = {}
    ids: list[str] = []
    made: list[tuple[int, BlockNode]] = []
    for line in lines:
        wanted = line.options.id
        try:
            node = machine.find.data_node(line.options.node_name)
            check_place(machine, node, line.options)
            check_connection(machine, line.options)
            check_id(wanted, taken)
        except QmpError as error:
            raise at(line.number, error) from None
        id = wanted or next(free)
        taken.add(id)
        ids.append(id)
        options = replace(line.options, id=id, node_name=node.node_name)
        found.setdefault(node, []).append(options)
        made.append((line.number, node))
    takers = {node: takers_before(node) for node in found}
    rules = {node: iter(node.injector().add_all(given)) for node, given in found.items()}
    told = []
    for number, node in made:
        rule = next(rules[node])
        told += [f"line {number}: {why}" for why in warnings(machine, node, rule, takers[node])]
        takers[node].add(rule)
    return FaultIds(ids=ids, warnings=told or None)
