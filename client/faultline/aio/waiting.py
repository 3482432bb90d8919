# SPDX-License-Identifier: MIT
"""The wait for a descriptor, on an event loop: what `sync.waiting` is with poll."""

from __future__ import annotations

import asyncio


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
