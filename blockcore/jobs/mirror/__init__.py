# SPDX-License-Identifier: MIT
"""Mirrors (`block/mirror.c`): drive-mirror, blockdev-mirror, and commits of the active image.

`job` starts and ends a mirror, and does what users ask of it; `options` says how to
mirror, `work` is the main loop.  `initial` marks what has to be copied at first,
`copier` copies what is marked, some of it in whole `clusters`; `active` copies
guests' writes at once (copy-mode=write-blocking).  `filter` is mirror_top, which
sees those writes.
"""
