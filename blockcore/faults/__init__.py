# SPDX-License-Identifier: MIT
"""Fault rules: which request is hit, and what becomes of it.

`options` has what every rule says, and what a kind of fault has to be; `fail` is
the kind that answers with an errno; `kinds` lists the kinds, from which QMP's
types follow.  `injector` has the rules of a node and decides, for each request,
which of them hits it; `gate` says which byte ranges no rule concerns, so that
requests there may pass without the question.
"""
