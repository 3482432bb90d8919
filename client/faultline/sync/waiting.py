# SPDX-License-Identifier: MIT
"""Waits for a descriptor, futures and time, by poll: what `aio.waiting` is on an event loop."""

from __future__ import annotations

import select
import time
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

T = TypeVar("T")


def readable(descriptor: int, timeout: float) -> bool:
    """Return whether a descriptor becomes readable, or its other end is closed, in `timeout` s."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(max(timeout, 0) * 1000))


def first_done(futures: Collection[Future[T]], timeout: float) -> set[Future[T]]:
    """Return the futures that are done, as soon as one is; none after `timeout` seconds."""
    return wait(futures, timeout, FIRST_COMPLETED).done


def pause(seconds: float) -> None:
    """Let `seconds` pass; none if it is not positive."""
    time.sleep(max(seconds, 0))
