# SPDX-License-Identifier: MIT
"""A model of QEMU's block layer as a guest, and a manager, see it.  Theory of operation.

The core (policy, run state, drives, nodes, fault rules, throttling) consists of
coroutines that decide and never perform: all run under one big lock, and ask
for what blocks with ``await Call(...)`` and for what has to become true with
``await Until(...)`` (`effects`).  Between two awaits nothing else happens.

Who runs them: `bql.big_lock`, on nbdkit's worker threads for guest requests and
on the main loop for everything else; `tests/support/sim.py` in the simulator.  When a
region of the lock ends, every waiting coroutine whose condition has come true
is advanced on the spot.  That is why nobody has to be notified, and why events
and replies leave in the order of QEMU's, whose coroutines are entered directly.

A guest request: `plugin/drive.py` -> `process.connection` (tries
`nodes.shortcut`, for requests that nothing concerns) -> `drive` (holds it
while the machine does not run, and lets the policy decide about an error) ->
`nodes` (fault rules, thresholds, then the driver) -> a system call.

A job: a coroutine of the core that the main loop runs (`job`, `jobs`); a filter
node over its source sees to guests' requests meanwhile.

A QMP command: `process.control` -> `qmp.session` (bytes to a command with
checked arguments) -> a function in `commands` -> `machine`.  Its reply, and the
events of everybody, go through the client's one queue.

A configuration: KEY=VALUE -> `config` (with `qapi.keyval` and
`nodes.definitions`) -> `machine`.

Each folder's docstring tells what its modules are for; `docs/internals.md` has
the plan of the rooms and says where something new goes.
"""
