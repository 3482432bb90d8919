# SPDX-License-Identifier: MIT
"""The control protocol QMP, without I/O.

- `session`: the conversation with one client: bytes in, commands with checked
  arguments and replies out.
- `output`: turns the messages for one client into bytes, a chunk at a time.
- `waiting`: what a client has sent while an earlier command of its own runs.

Nothing in here reads a socket, takes a lock or knows the time.
`process.control` is the host: it calls a `Session` and an `Output` on the main
loop.
"""
