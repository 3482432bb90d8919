# SPDX-License-Identifier: MIT
"""The process around a machine: threads, sockets, signals, the log.

All real I/O is here, but for that of nodes.

Serving: `server` has the life of the process, `connection` a guest's connection,
`loop` the main loop's thread, `pool` the threads for calls that block, `control`
the control socket, `nbd_address` and `socket_file` where it listens, `recursion`
how deep calls may nest.

Beginning and end: `start`, `ending`, `signals`, `leftovers`.

The log, which nothing waits for: `log`, `log_writer`, `stderr`.
"""
