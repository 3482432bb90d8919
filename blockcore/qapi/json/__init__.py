# SPDX-License-Identifier: MIT
"""JSON as QEMU reads and writes it, without recursion.

`lexer` turns bytes into tokens, `value` the tokens of one value into that
value, with QEMU's checks in QEMU's order; `stream` cuts a stream of bytes into
values.  `writer` gives a value as pieces of text, so that a large one can be
sent in turns.
"""
