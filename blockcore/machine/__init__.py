# SPDX-License-Identifier: MIT
"""One emulated machine, and the procedures that concern more than one of its parts.

`machine` has the run state, the graph, the drives and the jobs; `lookup` finds
nodes and drives by the names that users give.  `vm_stop` stops the machine.
`drain` keeps the requests of guests and the work of jobs away from nodes for a
while.  `transaction` makes several changes or none.  `graph_changes`,
`snapshot` and `new_image` change the graph under running drives.  `power` cuts the
power of drives; `crash_clones` shows what that would leave, `write_log_file` saves what
it would lose.  `volume_responder` extends thin volumes as a storage manager does.

All of it runs under the big lock.  What has to wait is a coroutine of the core.
"""
