# SPDX-License-Identifier: MIT
"""Pure decisions: tables, counters and arithmetic, without I/O and without a clock.

Every time is an argument.  Unless a docstring says otherwise, the caller holds
the big lock.

- `policy`: the action that rerror or werror takes for an errno, and the io-status.
- `runstate`: the run state of the machine, and which state may follow which.
- `job_status`: the life of a job, and which verbs each status accepts.
- `bitmap`: dirty bitmaps.
- `accounting`: the counters of a drive.
- `throttle`, `throttle_group`: the I/O limits of drives, and the queues of drives
  that share limits.
- `ratelimit`: the speed limit of a job.
- `volume`: a file of limited physical size.
- `write_log`, `extents`: the writes of a volatile cache, and what reads see of them.
- `log_writes`: that log as a file of dm-log-writes.
- `crash_states`: what a medium may have got of them after a crash; `crash_enumeration`: all
  of that, as a list.
- `ranges`: rounding to whole units.
- `host`: protocols for what parts of the machine need from the machine.
"""
