# SPDX-License-Identifier: MIT
"""The process around a machine: threads, sockets, signals, the log.

All I/O of the package is here, except that of nodes.

Serving: `server` is the life of the process, `exports` what guests connect to,
`connection` a guest's connection, `gathering` where its workers run, `loop` the main
loop's thread, `pool` the threads for calls that block, `control` the control socket,
`nbd_address` the address of the NBD server, `nbd_socket` the sockets of its clients,
`socket_file` the files of sockets, `recursion` the depth to which calls may nest.

Beginning and end: `start` is the process until it serves, `standby` its wait for keys
that come later, before which `warm` imports everything, `temporary_drive` the drives
whose files it makes, `fault_file` the rules that it reads from a file, `ending` its way
to the exit, `signals` the signals that end it, `leftovers` the files that it removes at
its end, `hints` what is said behind QEMU's words about a wrong pair. `announcement` and
`pidfile` make known that it serves.

Recording: `recorded` is a machine that is recorded, `recording_header` the first line,
`recorder` the file and the thread that writes it.

The log, for which no other thread waits: `log` is its form, `log_writer` the
thread that writes it, `stderr` the pipe that collects everything else on
descriptor 2.
"""
