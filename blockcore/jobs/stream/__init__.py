# SPDX-License-Identifier: MIT
"""block-stream (`block/stream.c`): `job`, and `filter`, its copy-on-read filter."""
