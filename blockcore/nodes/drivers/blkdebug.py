# SPDX-License-Identifier: MIT
"""The blkdebug filter: shows its child, with fault rules from a file or a definition.

Any node can have fault rules (`faults/injector.py`).  A blkdebug node begins with
some, and has limits on requests that exercise rarely used code above and below it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields

from blockcore.bql.effects import LaneCall
from blockcore.faults.fail import Fail
from blockcore.faults.options import FaultOptions
from blockcore.faults.states import StateChange
from blockcore.nodes.definitions.blkdebug_config import parse_blkdebug_config
from blockcore.nodes.definitions.options import BlockdevOptionsBlkdebug
from blockcore.nodes.definitions.structs import InjectError, SetState
from blockcore.nodes.driver import OPENING, NodeHost, NodeOptions
from blockcore.nodes.filter import FilterNode
from blockcore.nodes.making import Making
from blockcore.nodes.node import BlockNode
from blockcore.nodes.shortcut.way import Way
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import FaultIOType, QmpError
from blockcore.qapi.record import dataclass

CONFIG_BYTES_MAX = 1 << 20
"""Largest rule file: it is parsed under the big lock, and each rule costs time at requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlkdebugLimits:
    """QAPI's members with these names, in bytes; 0 is no limit.

    Requests longer than a `max` are split.  Zeroes shorter than `opt_write_zero`
    are written as data, discards shorter than `opt_discard` are dropped.
    """

    max_transfer: int = 0
    opt_write_zero: int = 0
    max_write_zero: int = 0
    opt_discard: int = 0
    max_discard: int = 0


class BlkdebugNode(FilterNode):
    """A filter that passes requests to `image` in pieces that its limits allow."""

    driver = "blkdebug"
    filters = "image"
    passes_fua = True

    def __init__(
        self,
        options: NodeOptions,
        host: NodeHost,
        image: BlockNode,
        *,
        config: str = "",
        rules: Iterable[FaultOptions] = (),
        changes: Iterable[StateChange] = (),
        limits: BlkdebugLimits | None = None,
    ) -> None:
        super().__init__(options, host, image)
        self.config = config
        self.limits = limits or BlkdebugLimits()
        self.injector().load(rules, changes)

    @classmethod
    async def make(cls, definition: BlockdevOptionsBlkdebug, making: Making) -> BlkdebugNode:
        """Return a node with the rules of the file, then those of the definition (read_config).

        The order decides which rule hits a request that several could hit.
        """
        errors = list(definition.inject_error or ())
        changes = list(definition.set_state or ())
        if definition.config:
            try:
                text = await LaneCall(OPENING, _read_config, making.path(definition.config))
                more_errors, more_changes = parse_blkdebug_config(text)
            except QmpError as error:
                error.where = ", ".join(filter(None, (definition.config, error.where)))
                raise
            errors, changes = more_errors + errors, more_changes + changes
        return cls(
            making.options,
            making.host,
            await making.child(definition.image),
            config=definition.config or "",
            rules=_faults(making.options.node_name, errors),
            changes=[_state_change(change) for change in changes],
            limits=BlkdebugLimits(
                max_transfer=definition.max_transfer or 0,
                opt_write_zero=definition.opt_write_zero or 0,
                max_write_zero=definition.max_write_zero or 0,
                opt_discard=definition.opt_discard or 0,
                max_discard=definition.max_discard or 0,
            ),
        )

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        for start, end in _pieces(len(buf), self.limits.max_transfer):
            await self.below.pread(offset + start, buf[start:end])

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        for start, end in _pieces(len(buf), self.limits.max_transfer):
            await self.below.pwrite(offset + start, buf[start:end])

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        if length < self.limits.opt_write_zero:
            raise failure(errno.ENOTSUP)
        for start, end in _pieces(length, self.limits.max_write_zero):
            await self.below.zero_as_child(offset + start, end - start, may_unmap=may_unmap)

    async def do_discard(self, offset: int, length: int) -> None:
        if length < self.limits.opt_discard:
            raise failure(errno.ENOTSUP)
        for start, end in _pieces(length, self.limits.max_discard):
            await self.below.discard(offset + start, end - start)

    async def do_allocated_file_size(self) -> None:
        """Return None: QEMU's blkdebug does not ask its child (recordings guest-* show it)."""

    def do_way(self) -> Way | None:
        return None if self.limits.max_transfer else self.below.way()


def _pieces(length: int, limit: int) -> Iterator[tuple[int, int]]:
    step = limit or length
    return ((start, min(start + step, length)) for start in range(0, length, step or 1))


def _read_config(path: str) -> str:
    """Return the text of a rule file; raise QmpError.  Runs in a lane.

    O_NONBLOCK keeps a FIFO without a writer from blocking, and the limit keeps an
    endless device from filling the memory.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1) or b""
    except OSError as exc:
        reason = os.strerror(exc.errno or 0)
        raise QmpError(f"Could not read blkdebug config file: {reason}") from None
    if len(data) > CONFIG_BYTES_MAX:
        raise QmpError(f"Could not read blkdebug config file: {os.strerror(errno.EFBIG)}")
    return data.decode(errors="surrogateescape")


def _faults(node_name: str, rules: Iterable[InjectError]) -> list[FaultOptions]:
    return [
        Fail(
            node_name=node_name,
            id=f"{node_name}.{number}",
            **{field.name: getattr(rule, field.name) for field in fields(rule)}
            | {"iotype": None if rule.iotype is None else FaultIOType(rule.iotype)},
        )
        for number, rule in enumerate(rules)
    ]


def _state_change(options: SetState) -> StateChange:
    return StateChange(event=options.event, state=options.state, new_state=options.new_state)
