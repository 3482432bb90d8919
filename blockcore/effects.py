"""What the core asks for and never does itself: a blocking call, or a wait.

Core code consists of coroutines that run under the big lock (`bql.py`).  An
``await`` of one of these two effects is the only place where the lock is
dropped; a stretch of code between two awaits is therefore atomic, the same
contract a QEMU coroutine has under the BQL.  Interpreters perform the effects:
`bql.py` for real threads, `tests/sim.py` for the deterministic simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any


class Call:
    """Perform ``fn(*args)`` outside the lock; the await gives its result.

    `fn` may block (it is a system call or a thin wrapper of one).  An OSError
    it raises is thrown into the coroutine: errno is the outcome of an I/O.
    Any other exception is a bug and propagates the same way.
    """

    __slots__ = ("args", "fn")

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
