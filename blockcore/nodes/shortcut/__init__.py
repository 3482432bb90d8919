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

Nothing of this has a lock of its own.  It is safe because of five invariants,
each with the test of `tests/unit/test_shortcut_invariants.py` that fails where
it is violated.  The interpreter runs the steps of all threads in one order.

Busy before look (`process.connection`, `slot`).  A worker sets its slot's
`busy`, then looks at the drive's shortcut; whoever needs the drive quiet takes
the shortcut away, then waits until no slot is busy.  One of the two always sees
the other.  A worker that finds the shortcut gone when it is done pokes the
lock, since somebody may be waiting.  `test_busy_before_look`

An entry changes in one step (`nodes.drivers.qcow2.shortcut`, its `mapping`).
An entry of a table that workers look at is a whole mapping; it goes from one to
the next by one assignment, and is looked at once for each decision.
`test_an_entry_changes_in_one_step`, `test_an_entry_is_looked_at_once`

`_counted` before and after (`rules.bitmap`).  A worker sets bits by one call
into C, and says before and after that their number is not known: before, for
whoever counts once the bits are set; after, for whoever has counted between the
first word and the bits, and believes it.  `test_counted_before_and_after`

Only the last request counts (`faults.injector`).  An event replaces the list of
active rules, so that of any number of requests on the shortcut one trace is
left: the last one's, in a deque of one.  `test_only_the_last_request_counts`

Mark right after the reference has gone (`nodes.drivers.qcow2.grace`).  A
cluster that lost its last reference is nobody else's before all have ended who
may have found it: those busy at a mark that is taken when no table has the
cluster any more.  `test_mark_right_after_the_reference_has_gone`

A worker takes the big lock for a decision after all (new clusters), and no
longer: never to wait for anything, since others may wait for its slot under it.
"""
