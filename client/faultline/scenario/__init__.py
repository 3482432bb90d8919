# SPDX-License-Identifier: MIT
"""Scenario files: what a machine goes through beside a program, and what has to come of it.

`tree` makes `values` of YAML, which know where they stand, `members` checks commands
and events by the schema, `matching` compares what came with what is wanted, `scalars`
reads times and sizes.  `verbs` reads steps, `reading` a file; `steps` are their types.
`play` decides which of the `moves` is made next and what the verdict is, `watching`
whether a step has what it waits for, and `report` says it.  None of these does I/O: the
players are `faultline.aio.player` and `faultline.sync.player`.

The folder `flows` has the scenarios that are shipped, which `shipped` finds.  PyYAML is
imported by `tree`, and so when a file is read.
"""

from __future__ import annotations
