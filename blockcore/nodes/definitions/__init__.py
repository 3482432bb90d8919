# SPDX-License-Identifier: MIT
"""Nodes as text and as typed definitions; nothing in here does I/O.

`options` declares QAPI's BlockdevOptions, `structs` the structs and enumerations
among their members.  `filename` turns what a user types after ``file=`` into
options, `shown_filename` turns options into the file name that QEMU shows.
`flat_options` and `option_texts` give the untyped keys of ``-drive`` their types,
as bdrv_open does.  `blkdebug_config` reads blkdebug's rule files.
`filter_options` has the options of the filters that jobs insert.
`allowed_backing` limits which backing files images may name.
"""
