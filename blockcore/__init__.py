# SPDX-License-Identifier: MIT
"""A model of QEMU's block layer as guests and management clients see it.  Theory of operation.

The core (policies, run state, drives, nodes, jobs, fault rules, limits) consists
of coroutines that decide, and perform no I/O.  All of them run under one big lock.
They ask for blocking work with ``await Call(...)``, and wait for a condition with
``await Until(...)`` (`bql.effects`).  Between two awaits no other coroutine runs.

`bql.big_lock` runs the coroutines: guest requests on nbdkit's worker threads,
everything else on the main loop.  `tests/support/sim.py` runs them in the
simulator.  At the end of each region of the lock, every waiting coroutine whose
condition has come true is advanced on the spot.  So code that makes a condition
true notifies nothing, and events and replies leave in QEMU's order, because QEMU
enters its coroutines directly as well.

- A guest request: `plugin/drive.py` -> `process.connection`, which tries the
  shortcut (`nodes.shortcut`) for requests that need no decision -> `drive`, which
  holds requests while the machine is stopped, and lets the policy decide about
  errors -> `nodes`: fault rules, thresholds, then the driver -> a system call.
- A job: a coroutine of the core that the main loop runs (`job`, `jobs`).  While it
  runs, a filter node over its source takes care of guests' requests.
- A QMP command: `process.control` -> `qmp.session`, which turns bytes into a
  command with checked arguments -> a function in `commands` -> `machine`.  The
  reply and all events go through one queue for each client.
- A configuration: KEY=VALUE -> `config`, with `qapi.keyval` and
  `nodes.definitions` -> `machine`.

The docstring of each folder names its modules; `docs/internals.md` has the plan of
the folders, and says where something new goes.
"""
