# SPDX-License-Identifier: MIT
"""JSON as QEMU reads and writes it, without recursion.

- `lexer`: turns bytes into tokens.
- `value`: turns the tokens of one value into the value, with QEMU's checks in
  QEMU's order.
- `stream`: splits a stream of bytes into values.
- `writer`: turns a value into pieces of text, so that a large one can be sent in
  several turns.

No call takes long, whatever a client sends: the main loop serves all clients.
"""
