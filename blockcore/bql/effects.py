# SPDX-License-Identifier: MIT
"""Effects: what coroutines of the core await, and never do themselves.

There are two: a blocking call (`Call`), and a wait for a condition (`Until`).
Coroutines of the core run under the big lock, which is dropped only at an
``await`` of an effect.  Code between two awaits is therefore atomic, as it is
in a QEMU coroutine under the BQL.  Interpreters perform the effects:
`big_lock.py` with real threads, `tests/support/sim.py` in the deterministic
simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, ClassVar, TypeVar

E = TypeVar("E", bound=BaseException)


class Lane:
    """A set of calls that share threads, so that calls that hang hold up no other lane.

    At most `threads` calls of a lane are performed at a time.  `busy` says that
    they keep a processor busy: the pool then has at most about one thread per
    processor for them.  Calls of a guest's request have no lane: they are
    performed on the worker thread that the request came on.
    """

    __slots__ = ("__weakref__", "busy", "name", "threads")

    def __init__(self, name: str, threads: int, *, busy: bool = False) -> None:
        self.name = name
        self.threads = threads
        self.busy = busy


GENERAL = Lane("pool", 4)
"""The lane of all calls that have no lane of their own.

Four calls that hang stop all others of it, so a call that may hang has a lane
of its own.
"""

COPYING = Lane("copy", 4, busy=True)
"""The lane of `Copy` calls; the pool has fewer threads for it where there are fewer processors."""


class Call:
    """The effect of performing ``fn(*args)`` outside the lock; the await gives its result.

    `fn` may block: it is a system call, or a thin wrapper of one.  An exception
    that `fn` raises is thrown into the coroutine.  An OSError is the outcome of
    an I/O; any other exception is a bug.
    """

    __slots__ = ("args", "fn")

    lane: ClassVar[Lane] = GENERAL

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self.fn = fn
        self.args = args

    def __await__(self) -> Generator[Call, Any, Any]:
        return (yield self)

    def perform(self) -> Any:
        """Perform the call, and return its result or raise what it raises."""
        return self.fn(*self.args)


class Copy(Call):
    """A call that moves data, mostly from memory to memory, and so keeps a processor busy.

    The pool performs about as many of them at a time as there are processors,
    beside other calls, which mostly wait.
    """

    __slots__ = ()

    lane = COPYING


class LaneCall(Call):
    """A call that may hang, for example because a server does not answer: its lane is given."""

    __slots__ = ("lane",)

    lane: Lane  # type: ignore[misc]  # an attribute of each call, not of the class

    def __init__(self, lane: Lane, fn: Callable[..., Any], *args: Any) -> None:
        super().__init__(fn, *args)
        self.lane = lane


def kept(error: E) -> E:
    """Return an exception that is to be stored, without its traceback and its causes.

    A traceback refers to frames, and so keeps alive everything that these
    frames have, for example the buffers of a request.
    """
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def never() -> bool:
    """Return False: the condition of a wait that only its deadline ends."""
    return False


class Until:
    """The effect of waiting until ``condition()`` is true; the await gives True.

    With `deadline_ns` (the clock's monotonic nanoseconds) the wait ends then at
    the latest, and the await gives False if the condition does not hold.

    A condition must be cheap and must change nothing: interpreters evaluate it
    at the end of each region of the lock.  Waiters that share a condition
    resume in ascending order of `rank`, and within a rank in the order in
    which they began to wait.
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
