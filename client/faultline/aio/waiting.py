# SPDX-License-Identifier: MIT
"""Waits for a descriptor, futures and time, on an event loop: what `sync.waiting` is without."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def readable(descriptor: int, timeout: float) -> bool:
    """Return whether a descriptor becomes readable, or its other end is closed, in `timeout` s."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def is_ready() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(descriptor, is_ready)
    try:
        async with asyncio.timeout(timeout):
            await future
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
    return True


async def first_done(futures: Collection[Future[T]], timeout: float) -> set[Future[T]]:
    """Return the futures that are done, as soon as one is; none after `timeout` seconds."""
    loop = asyncio.get_running_loop()
    is_done = asyncio.Event()

    def tell(_: Any) -> None:
        with suppress(RuntimeError):  # the loop may have been closed since
            loop.call_soon_threadsafe(is_done.set)

    for future in futures:
        future.add_done_callback(tell)
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await is_done.wait()
    return {future for future in futures if future.done()}


async def pause(seconds: float) -> None:
    """Let `seconds` pass; none if it is not positive."""
    await asyncio.sleep(max(seconds, 0))
