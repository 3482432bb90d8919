# SPDX-License-Identifier: MIT
"""The wait for a descriptor, with poll: what `aio.waiting` is on an event loop."""

from __future__ import annotations

import select


def readable(descriptor: int, timeout: float) -> bool:
    """Return whether a descriptor becomes readable, or its other end is closed, in `timeout` s."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(max(timeout, 0) * 1000))
