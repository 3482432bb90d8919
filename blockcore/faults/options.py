# SPDX-License-Identifier: MIT
"""The options of a fault rule, and the base class of the kinds of fault.

A kind of fault is a subclass of `FaultOptions`.  It adds its own members, and
implements `carry_out`, a coroutine around the driver's part of a request.
`kinds` lists the kinds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

from blockcore.faults.scene import Scene
from blockcore.qapi.names import BlkdebugEvent, FaultIOType, QmpError, UInt32, UInt64
from blockcore.qapi.record import dataclass
from blockcore.qapi.types import Alternate

SECTOR_SIZE = 512
"""Bytes of blkdebug's sectors, whatever the device's block size (BDRV_SECTOR_SIZE)."""


class Request(NamedTuple):
    """One request to a node, as its driver is going to get it.

    `offset` and `nbytes` are bytes; a flush has 0 for both.  `buf` has `nbytes`
    bytes: a read fills it, a write takes it; other requests have None, and so has
    a read that only copies data up the chain (`BlockNode.populate`), of which no
    byte is returned.
    `may_unmap` allows write-zeroes to deallocate.  `fua` is of what changes the
    medium: it is to be stable with its end.  The node flushes after it.
    """

    iotype: FaultIOType
    offset: int
    nbytes: int
    buf: memoryview | None = None
    may_unmap: bool = False
    fua: bool = False

    @property
    def data(self) -> memoryview:
        """The buffer of a read or write."""
        assert self.buf is not None
        return self.buf


R = TypeVar("R")

IOTypes = frozenset[FaultIOType]

ALL: IOTypes = frozenset(FaultIOType)

USUAL: IOTypes = ALL - {FaultIOType.BLOCK_STATUS, FaultIOType.CONNECT}
"""The kinds of request that a rule without an `iotype` matches, as in blkdebug."""

WRITES: IOTypes = frozenset(
    {FaultIOType.WRITE, FaultIOType.WRITE_ZEROES, FaultIOType.DISCARD}
)
"""The kinds of request that change the medium, and may have FUA."""

PLACELESS: IOTypes = frozenset({FaultIOType.FLUSH, FaultIOType.CONNECT})
"""The kinds of request that are about the whole node."""

LIFE_MS = 100 * 365 * 24 * 3600 * 1000
"""Milliseconds that no machine lives to see."""


class FaultOrigin(StrEnum):
    """Whose requests a rule matches."""

    ANY = "any"
    GUEST = "guest"
    JOB = "job"


ONE_OR_MORE = Alternate("FaultIOTypes", FaultIOType, list[FaultIOType])
"""The type of `iotype`: one kind of request, or several."""

Go = Callable[[Request], Awaitable[R]]
"""The driver's part of a request: returns its result, or raises OSError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultOptions:
    """The options that say which requests a rule hits.

    The members of QAPI's BlkdebugInjectErrorOptions, and `offset`, `length`,
    `count`, `after`, `rate`, which blkdebug does not have.

    `offset` and `length` are bytes; `length` None reaches to the end of the
    device.  The rule matches requests that overlap this range.  `sector` is
    blkdebug's: the rule matches requests that contain the first byte of that
    512-byte sector; -1 is any.  A flush and the opening of a connection have no
    range, so a rule with a range never matches them.

    `fua` says whether the rule matches only what changes the medium with FUA, or only
    what changes it without; nodes below the one that the request comes to see a
    flush after it instead.  `connection` is the number of the guest's connection
    whose requests the rule matches; `origin` says whether it matches requests of
    guests, of jobs (and of the machine itself), or any.

    The first `after` matching requests pass, and then all but each `every`th.  Of
    those that are left each is hit with probability `rate`, until `count` have
    been hit (None: no end; `once` is a count of 1).  A hit changes blkdebug's
    state to `new_state`, if that is not 0.

    Times are in milliseconds since the rule was added.  The rule matches nothing
    before `not_before_ms` and from `not_after_ms` on.  With `up_ms` and `down_ms` it
    matches nothing for so long, then everything, and so on in turns
    (dm-flakey's intervals, in which a disk is up and down).

    With `while_file` the rule matches only while there is a file of that name: the
    node looks before each request that the rule could hit (nbdkit's error filter).
    With `notify` each hit is told by X_FAULT_TRIGGERED.

    `immediately` has no effect: it decides when QEMU's coroutine yields, which no
    client can see.
    """

    possible: ClassVar[IOTypes] = ALL
    """The kinds of request for which the kind of fault makes sense."""

    node_name: str
    id: str | None = None
    action: str = "error"
    event: BlkdebugEvent = BlkdebugEvent.NONE
    state: int = 0
    origin: FaultOrigin = FaultOrigin.ANY
    connection: UInt32 | None = None
    fua: bool | None = None
    iotype: Annotated[FaultIOType | list[FaultIOType] | None, ONE_OR_MORE] = None
    sector: int = -1
    once: bool = False
    immediately: bool = False
    offset: UInt64 | None = None
    length: UInt64 | None = None
    count: UInt64 | None = None
    after: UInt64 = UInt64(0)
    every: UInt64 = UInt64(1)
    rate: float = 1.0
    not_before_ms: UInt64 | None = None
    not_after_ms: UInt64 | None = None
    up_ms: UInt32 | None = None
    down_ms: UInt32 | None = None
    while_file: str | None = None
    new_state: int = 0
    notify: bool = False

    @property
    def usual(self) -> IOTypes:
        """The kinds of request that the rule matches without an `iotype`."""
        return USUAL

    @property
    def watched(self) -> IOTypes:
        """The kinds of request that `watch` gets, whether or not the rule hits them."""
        return frozenset()

    @property
    def iotypes(self) -> IOTypes:
        """The kinds of request that the rule matches."""
        if self.iotype is None:
            return self.usual if self.fua is None else self.usual & WRITES
        return frozenset(self.iotype if isinstance(self.iotype, list) else (self.iotype,))

    @property
    def is_choosy(self) -> bool:
        """Whether more than the kind and place of a request decides whether the rule matches."""
        of_someone = self.connection is not None or self.origin is not FaultOrigin.ANY
        depends = self.has_times or self.while_file is not None or self.fua is not None
        return of_someone or self.state != 0 or depends

    def is_of(self, connection: int) -> bool:
        """Return whether the rule matches a request of a connection; 0 stands for a job's."""
        if self.connection is not None:
            return connection == self.connection
        if self.origin is FaultOrigin.ANY:
            return True
        return (connection != 0) == (self.origin is FaultOrigin.GUEST)

    @property
    def has_times(self) -> bool:
        """Whether time decides about requests."""
        limits = (self.not_before_ms, self.not_after_ms, self.down_ms)
        return any(limit is not None for limit in limits)

    def is_time(self, age_ms: int) -> bool:
        """Return whether the rule can hit a request, so long after it was added."""
        if age_ms < (self.not_before_ms or 0):
            return False
        if self.is_over(age_ms):
            return False
        if self.down_ms is None:
            return True
        up_ms = self.up_ms or 0
        return age_ms % (up_ms + self.down_ms) >= up_ms

    def is_over(self, age_ms: int) -> bool:
        """Return whether the rule hits nothing any more, so long after it was added."""
        return self.not_after_ms is not None and age_ms >= self.not_after_ms

    def new_memory(self) -> Any:
        """Return what the kind remembers of a rule from request to request, when it is added."""
        return None

    def strikes(self, offset: int, nbytes: int, memory: Any) -> bool:
        """Return whether a request that the rule matches could be hit, as far as the kind knows."""
        return True

    @property
    def draws(self) -> bool:
        """Whether chance decides what becomes of a request that is hit (`Scene.thrown`)."""
        return False

    @property
    def lets_go(self) -> bool:
        """Whether the rule's hits are not counted, so that they never use up the rule."""
        return False

    async def carry_out(self, request: Request, go: Go[R], scene: Scene) -> R:
        """Carry out a request that the rule has hit, and return its result.

        `go(request)` is the driver's part, which the kind may call or not.  A kind
        that waits awaits `Until` with a deadline by the scene's clock.  Raises
        OSError, the outcome of the request.
        """
        raise NotImplementedError

    async def watch(
        self, request: Request, go: Go[R], driver: Go[Any], scene: Scene
    ) -> R:
        """Carry out a request of a kind in `watched` that touches the rule's range.

        `go(request)` is what happens to the request without this rule; `driver` carries
        out requests of the kind's own, past all rules.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Raise QmpError if members contradict each other, or one is out of range.

        Combinations first, then single members: the first that is found gives
        the message.
        """
        if self.sector != -1 and (self.offset is not None or self.length is not None):
            raise QmpError("'sector' and 'offset' cannot be specified at the same time")
        if self.once and self.count is not None:
            raise QmpError("'once' and 'count' cannot be specified at the same time")
        if (self.up_ms is None) != (self.down_ms is None):
            raise QmpError("'up-ms' and 'down-ms' need each other")
        if self.not_after_ms is not None and self.not_after_ms <= (self.not_before_ms or 0):
            raise QmpError("'not-after-ms' has to be later than 'not-before-ms'")
        if self.connection is not None and self.origin is FaultOrigin.JOB:
            raise QmpError("'connection' is for requests of guests, not of 'origin' job")
        if wrong := self.iotypes - self.possible:
            raise QmpError(
                f"Parameter 'iotype' value '{min(wrong)}' does not go with action '{self.action}'"
            )
        if not self.iotypes and self.fua is None:
            raise QmpError("Parameter 'iotype' expects at least one kind of request")
        if self.while_file is not None and not self.while_file.startswith("/"):
            raise QmpError("Parameter 'while-file' expects the path of a file, from / on")
        if self.fua is not None and not (self.iotypes and self.iotypes <= WRITES):
            raise QmpError("Parameter 'fua' is for write, write-zeroes and discard only")
        if self.iotypes <= {FaultIOType.CONNECT} and self.origin is FaultOrigin.JOB:
            raise QmpError("Parameter 'origin' value 'job' does not go with 'iotype' connect")
        for name in self.ends:
            if self.iotypes <= PLACELESS:
                kinds = ", ".join(sorted(self.iotypes))
                raise QmpError(f"Parameter '{name}' is not for 'iotype' {kinds}, without a place")
        if self.sector < -1:
            raise QmpError("Parameter 'sector' expects a sector number, or -1 for any")
        if not 0.0 <= self.rate <= 1.0:
            raise QmpError("Parameter 'rate' expects a number between 0 and 1")
        if (self.not_before_ms or 0) > LIFE_MS:
            raise QmpError("Parameter 'not-before-ms' expects a time within 100 years")
        positive = {
            "count": self.count,
            "length": self.length,
            "every": self.every,
            "down-ms": self.down_ms,
            "connection": self.connection,
        }
        for name, value in positive.items():
            if value == 0:
                raise QmpError(f"Parameter '{name}' expects a value greater than zero")

    @property
    def ends(self) -> dict[str, int]:
        """For each member that gives a place, the least size (bytes) of a node with that place.

        A rule whose place is beyond the node's end would never hit anything.
        """
        places: dict[str, int] = {}
        if self.sector != -1:
            places["sector"] = self.sector * SECTOR_SIZE + 1
        if self.offset is not None:
            places["offset"] = self.offset + 1
        if self.length is not None:
            places["length"] = (self.offset or 0) + self.length
        return places

    @property
    def hits_max(self) -> int | None:
        """How many requests the rule hits before it is used up; None for any number."""
        return 1 if self.once else self.count

    @property
    def byte_range(self) -> tuple[int | None, int]:
        """Start and end (bytes) of the range that a request must overlap; start None: anywhere."""
        if self.sector != -1:
            start = self.sector * SECTOR_SIZE
            return start, start + 1
        if self.offset is None and self.length is None:
            return None, 0
        start = self.offset or 0
        return start, (1 << 63) if self.length is None else start + self.length
