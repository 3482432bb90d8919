# SPDX-License-Identifier: MIT
"""How the core is run: one big lock, and coroutines that ask for blocking work.

- `effects`: the two things that a coroutine of the core can await, a blocking
  call and a condition.
- `routine`: a running coroutine, and its two kinds of owner: a worker thread of
  nbdkit's, and the main loop.
- `asker`: for whom a routine runs.
- `big_lock`: advances routines under the lock, and resumes those whose conditions
  have come true.
- `clock`: the time, which tests replace.
- `lock`: a lock between coroutines, taken in the order in which they ask.
- `later`: imports that wait until they are needed.

Nothing in here knows what the coroutines do.
"""
