# SPDX-License-Identifier: MIT
"""The synchronous face: what `import faultline` gives.

The modules are those of `faultline.aio` without `await`, written by
`scripts/generate_client.py`: `machine` with its `start`, `session`, `commands`,
`faults`, `jobs`, `volumes`, `bitmaps` and `player`.  Only `channel`, which has a thread
that reads, and `waiting` are written by hand.
"""

from __future__ import annotations
