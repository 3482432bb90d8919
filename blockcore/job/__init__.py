# SPDX-License-Identifier: MIT
"""What all jobs have in common (QEMU's `job.c`, `blockjob.c`).

`job` is a job's life as the client sees it: status, verbs, errors, the end.
`job_coroutine` is its coroutine with pauses and sleeps, `job_driver` the
callbacks that a kind of job implements, `job_txn` jobs that succeed or fail
together.  `block_job` adds the nodes in use, the error policy and the speed
limit.  The kinds of job are in `blockcore.jobs`.
"""
