# SPDX-License-Identifier: MIT
"""How deep calls may nest.

A request goes down a chain of images by recursion, six frames for each, and
so do opening and closing: Python's thousand frames are enough for 200 images,
and QEMU opens longer chains than that.
"""

from __future__ import annotations

import resource
import sys

FRAMES_MAX = 6000
"""A chain of a thousand images."""

FRAMES_MIN = 1000

FRAME_BYTES = 1200
"""What a frame takes of a thread's stack at most; measured: 300 of a coroutine, 800 of a call
through C."""

STACK_UNLIMITED = 2 << 20
"""What glibc gives threads where the limit is none."""


def frames(stack_bytes: int) -> int:
    """How many fit on a stack of that size."""
    return max(FRAMES_MIN, min(FRAMES_MAX, stack_bytes // FRAME_BYTES))


def stack_bytes() -> int:
    """What a thread's stack takes of the address space."""
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return STACK_UNLIMITED if soft == resource.RLIM_INFINITY else soft


def allow_recursion() -> None:
    """Let calls nest as deep as the stacks of this process's threads allow."""
    sys.setrecursionlimit(frames(stack_bytes()))
