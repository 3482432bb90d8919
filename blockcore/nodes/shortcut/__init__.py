# SPDX-License-Identifier: MIT
"""The shortcut: plain I/O goes straight to a file descriptor.  Theory of operation.

Most requests of most drives need no decision: the machine runs, no rule can
hit them, nothing is throttled or watched.  A coroutine under the big lock
costs several times as much as the system call, and guests wait for each other.

`way` describes how a node's I/O reaches the file, and what is in between:
`BlockNode.way()` asks the driver's `do_way()` and adds the node's own conditions.
`traces` has what a request leaves at the nodes that it bypasses.  A `slot`
belongs to one worker thread: it tells whether the worker is on the shortcut, and
counts its requests there.  `guest` is called by nbdkit's workers.  Parts with one
user are beside it: copies from file to file in `jobs.shortcut`, the translation
of an image's guest offsets in `nodes.drivers.qcow2.shortcut`.

Requests that may bypass the nodes: reads and writes within the drive's size,
without FUA, outside the ranges that a fault rule may hit (`faults.gate`).  There
is no shortcut if the drive is throttled, quiesced, write-through or has sectors,
or if the machine is stopped.  A node cannot be bypassed if it has a write
threshold, detect-zeroes, rules that change states or may hit anywhere, or a
driver without `do_way`.

How a shortcut is invalidated: code that adds or removes anything that can affect
requests calls `concerns_changed`.  The machine then takes the shortcuts of all
drives away and raises `concerns`, by which jobs see that theirs is outdated.  The
next request takes the long way, and decides whether a new shortcut is possible.
Independently of that, a guard in the shortcut can leave single requests to the
long way.

The shortcut has no lock of its own.  It is safe because of five invariants, each
with a test in `tests/unit/test_shortcut_invariants.py` that fails if the
invariant is violated.  The interpreter runs the steps of all threads in one order.

Busy before look (`process.connection`, `slot`).  A worker sets its slot's
`busy`, then looks at the drive's shortcut.  Code that needs the drive quiet takes
the shortcut away, then waits until no slot is busy.  In any order of these
steps, at least one of the two sees the other.  A worker that finds the shortcut
gone after its request pokes the lock, because code may be waiting for its slot.
`test_busy_before_look`

An entry changes in one step (`nodes.drivers.qcow2.shortcut`, its `mapping`).
An entry of a table that workers look at is a complete mapping.  It changes by one
assignment, and each decision looks at it once.
`test_an_entry_changes_in_one_step`, `test_an_entry_is_looked_at_once`

`_counted` before and after (`rules.bitmap`).  A worker sets bits by one call
into C, and notes before and after it that their number is unknown.  The note
before is for code that counts after the bits were set.  The note after is for
code that counts between the first note and the bits, and would keep that number.
`test_counted_before_and_after`

Only the last request counts (`faults.injector`).  An event replaces the list of
active rules.  Of any number of requests on the shortcut only the last one's
effect is left, so a deque of one element records it.
`test_only_the_last_request_counts`

Mark right after the reference has gone (`nodes.drivers.qcow2.grace`).  A
cluster that lost its last reference is not used again before all requests have
ended that may have found it: the requests that are busy at a mark.  The mark is
taken when no table has the cluster any more.
`test_mark_right_after_the_reference_has_gone`

A worker may take the big lock for a decision (new clusters), but must not wait
for anything while it holds the lock, and must release the lock before its I/O:
other code may wait for its slot.
"""
