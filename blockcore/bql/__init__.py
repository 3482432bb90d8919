# SPDX-License-Identifier: MIT
"""How the core is run: one big lock, and coroutines that ask for what blocks.

`effects` are the two things that the core awaits: a blocking call, and a
condition.  `routine` is a coroutine being run, with its two kinds of owner, a
thread of nbdkit's and the main loop; `big_lock` advances routines and settles
their conditions.  `clock` is time as the core sees it, `lock` a lock that
coroutines take in the order in which they ask.
"""
