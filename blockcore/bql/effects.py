# SPDX-License-Identifier: MIT
"""What the core asks for and never does itself: a blocking call, or a wait.

Core code consists of coroutines that run under the big lock (`big_lock.py`).  An
``await`` of one of these two effects is the only place where the lock is
dropped; a stretch of code between two awaits is therefore atomic, the same
contract a QEMU coroutine has under the BQL.  Interpreters perform the effects:
`big_lock.py` for real threads, `tests/support/sim.py` for the deterministic simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, ClassVar, TypeVar

E = TypeVar("E", bound=BaseException)


class Lane:
    """Calls that share threads; what hangs in one lane keeps no other from going on.

    No more than `threads` of its calls are performed at a time; if they keep
    processors busy, not more than is good for these.  Threads that guests'
    requests bring along do not count.
    """

    __slots__ = ("__weakref__", "busy", "name", "threads")

    def __init__(self, name: str, threads: int, *, busy: bool = False) -> None:
        self.name = name
        self.threads = threads
        self.busy = busy


GENERAL = Lane("pool", 4)
"""Of all calls that are not told apart."""

COPYING = Lane("copy", 4, busy=True)
"""Of those that keep a processor busy: at most, for fewer processors get fewer."""


class Call:
    """Perform ``fn(*args)`` outside the lock; the await gives its result.

    `fn` may block (it is a system call or a thin wrapper of one).  An OSError
    it raises is thrown into the coroutine: errno is the outcome of an I/O.
    Any other exception is a bug and propagates the same way.
    """

    __slots__ = ("args", "fn")

    lane: ClassVar[Lane] = GENERAL

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self.fn = fn
        self.args = args

    def __await__(self) -> Generator[Call, Any, Any]:
        return (yield self)

    def perform(self) -> Any:
        return self.fn(*self.args)


class Copy(Call):
    """A call that moves data, mostly from memory to memory: it keeps a processor busy.

    About as many of them are performed at a time as there are processors, and
    beside other calls, which mostly wait.
    """

    __slots__ = ()

    lane = COPYING


class LaneCall(Call):
    """A call that waits for somebody who may never answer: it has threads of a lane of its own."""

    __slots__ = ("lane",)

    lane: Lane  # type: ignore[misc]  # of each, where others have one together

    def __init__(self, lane: Lane, fn: Callable[..., Any], *args: Any) -> None:
        super().__init__(fn, *args)
        self.lane = lane


def kept(error: E) -> E:
    """An outcome that is kept: without the trace, which keeps all that was at work with it."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


class Until:
    """Wait until ``condition()`` is true; the await gives True.

    With `deadline_ns` (the machine clock's monotonic nanoseconds) the wait
    ends at that moment at the latest, and the await gives False if the
    condition still does not hold.  Conditions are pure, cheap and emit
    nothing: interpreters evaluate them whenever a lock region ends.  Waiters
    that share a condition resume in the order of their `rank`, those of one
    rank in the order in which they came.
    """

    __slots__ = ("condition", "deadline_ns", "rank")

    def __init__(
        self, condition: Callable[[], bool], deadline_ns: int | None = None, rank: int = 0
    ) -> None:
        self.condition = condition
        self.deadline_ns = deadline_ns
        self.rank = rank

    def __await__(self) -> Generator[Until, bool, bool]:
        return (yield self)
