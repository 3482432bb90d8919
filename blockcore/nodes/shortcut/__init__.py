# SPDX-License-Identifier: MIT
"""The shortcut: plain I/O goes straight to a file descriptor.  Theory of operation.

Most requests of most drives need no decision: the machine runs, no rule can
hit them, nothing is throttled or watched.  A coroutine under the big lock
costs several times what the system call does, and guests wait for each other's.

`way` says how a node's I/O reaches the file, and what stands on the way:
`BlockNode.way()` asks the driver's `do_way()` and adds what concerns the node
itself.  `traces` are what a request leaves at the nodes that it goes past.
`slot` is a worker thread's own: whether it is on the shortcut, and what it
has done there.  `guest` is what nbdkit's workers call.  What only some have is
beside its users: copying from file to file is `jobs.shortcut`, an image's way
from guest clusters to places `nodes.drivers.qcow2.shortcut`.

What may go past the nodes: reads and writes within the drive's size, without
FUA, outside the ranges that a fault rule may hit (`faults.gate`).  Not if the
drive is throttled, quiesced, write-through or has sectors, or the machine is
stopped; not past a node with a write threshold, detect-zeroes, rules that
change states or may hit anywhere, or a driver that has no `do_way`.

How the shortcut is told that it may not any more: whatever concerns requests
says so when it comes or goes, by `concerns_changed`.  The machine takes the
shortcut of all drives away and raises `concerns`, by which jobs see that theirs
is old.  The next request takes the long way and decides whether there may be a
shortcut again.  A guard in the shortcut itself leaves single requests to the
long way, without any of this.
"""
