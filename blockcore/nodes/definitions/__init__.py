# SPDX-License-Identifier: MIT
"""Nodes as text and as typed definitions; nothing in here does I/O.

`options` declares QAPI's BlockdevOptions, `structs` what members of them are.
`filename` turns what a user types after ``file=`` into options, `shown_filename`
options into what QEMU shows;
`flat_options` and `option_texts` give the untyped keys of ``-drive`` their types
the way bdrv_open does; `blkdebug_config` reads blkdebug's rules;
`filter_options` is what the filters of jobs are made from; `allowed_backing`
limits what images may name.
"""
