# SPDX-License-Identifier: MIT
"""The drivers, each a module or folder with the name of QAPI's enum value.

Protocols are `file`, `nbd` and `null`; formats are `raw` and the folder `qcow2`;
`blkdebug` and `volatile_cache` are filters; `crash_clone` shows what the latter
would lose, and `platter` is the medium of both.  A driver is a subclass of
`node.BlockNode` with those ``do_`` methods that it supports; anything that blocks is a
`Call`.

`probe` recognises a format by its first bytes, `nbd_server` connects to the
server of an nbd node, `file_info` has the information that only file nodes give,
`file_io` has the system calls for files, and `fallocate` the one that Python lacks.
"""
