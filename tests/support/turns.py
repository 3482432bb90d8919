# SPDX-License-Identifier: MIT
"""How much is done under the big lock without a pause."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from functools import partial
from types import FrameType
from typing import Any

from blockcore.bql.routine import Routine


def longest(coro: Coroutine[Any, Any, Any]) -> int:
    """Run it; how many lines of ours it runs at most between two of its awaits."""
    lines = most = 0

    def count(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        if "/blockcore/" not in frame.f_code.co_filename:
            return None
        lines += event == "line"
        return count

    def under_the_lock(work: Callable[[], None]) -> None:
        nonlocal lines, most
        lines = 0
        sys.settrace(count)
        try:
            work()
        finally:
            sys.settrace(None)
        most = max(most, lines)

    routine = Routine(coro)
    under_the_lock(routine.advance)
    while not routine.done:
        assert routine.call is not None, "it waits"
        value, error = None, None
        try:
            value = routine.call.perform()
        except Exception as exc:
            error = exc
        under_the_lock(partial(routine.advance, value, error))
    routine.outcome()
    return most
