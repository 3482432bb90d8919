# SPDX-License-Identifier: MIT
"""The depth to which calls may nest.

A request goes down a chain of images by recursion, with six frames per image,
and so do opening and closing.  Python's default limit of 1000 frames would do
for fewer than 200 images; QEMU opens longer chains.
"""

from __future__ import annotations

import resource
import sys

FRAMES_MAX = 6000
"""The most frames that are allowed: enough for a chain of 1000 images."""

FRAMES_MIN = 1000
"""The fewest frames that are allowed: Python's default."""

FRAME_BYTES = 1200
"""The bytes of a thread's stack that are reckoned per frame.

Measured: 300 bytes for a coroutine's frame, 800 for a call through C.  With
less, endless recursion would overflow the stack before Python notices.
"""

STACK_UNLIMITED = 2 << 20
"""Bytes of the stack that glibc gives a thread if the limit is "unlimited"."""


def frames(stack_bytes: int) -> int:
    """Return how many frames to allow on a stack of that size."""
    return max(FRAMES_MIN, min(FRAMES_MAX, stack_bytes // FRAME_BYTES))


def stack_bytes() -> int:
    """Return the size of a thread's stack, in bytes of address space (RLIMIT_STACK)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return STACK_UNLIMITED if soft == resource.RLIM_INFINITY else soft


def allow_recursion() -> None:
    """Set Python's recursion limit to what the stacks of this process's threads allow."""
    sys.setrecursionlimit(frames(stack_bytes()))
