# SPDX-License-Identifier: MIT
"""What all jobs have in common (QEMU's `job.c`, `blockjob.c`).

`job` is a job's life as the client sees it: status, pauses, verbs, errors.
`waiting` is where a job's work waits.  `job_txn` has the end of a job, and
jobs that succeed or fail together.  `block_job` adds the nodes in use, the error
policy and the speed limit.  What a kind of job does is its driver, which the
job holds: `job_driver` has the callbacks; the kinds are in `blockcore.jobs`.
`options` is what every command that starts a job takes.

A job's work is a coroutine of the core.  All of it runs under the big lock, and
what commands ask of a job takes effect when its work comes to a pause point.
"""
