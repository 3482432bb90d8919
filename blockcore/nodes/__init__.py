# SPDX-License-Identifier: MIT
"""Block nodes: the I/O core that all drivers share, and what surrounds it.

`node.BlockNode` carries out a request: fault rules, thresholds, bitmaps, then
the driver's part, which are the ``do_`` methods that `driver.BlockDriver`
declares.  `vertex` is a node's place in the graph, `permissions` and
`op_blockers` say who may use it for what, `tracking` keeps requests apart that
may not pass each other, `outcome` turns a bug in a driver into an errno,
`lifetime` opens and closes a node whatever its driver does, `making` is what a driver
makes a node from, `specific` what only some drivers tell of their images.  `copy_on_read` and
`zeroes` are requests made of other requests.  `filter` is a node that shows its
child's data.  `file_calls` are the threads on which one file system is called.

Rooms on a line, each of which uses those before it: `definitions` and
`shortcut` (how plain I/O goes straight to a file descriptor), the modules in
here, `drivers`, `graph`.
"""
