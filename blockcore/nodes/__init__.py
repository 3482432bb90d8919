# SPDX-License-Identifier: MIT
"""Block nodes: the I/O core that all drivers share, and the modules around it.

`node.BlockNode` carries out a request: fault rules, thresholds, bitmaps, then the
driver's part, the ``do_`` methods that `driver.BlockDriver` declares.  `vertex` is a
node's place in the graph; `permissions` and `op_blockers` tell who may use the node
for what.  `tracking` serialises requests that must not overlap, `outcome` turns a
bug in a driver into an errno, `lifetime` opens and closes a node.  `making` has the
arguments from which drivers make nodes, `specific` the types of driver-specific
information.  `copy_on_read` and `zeroes` make requests out of other requests.
`filter` is the base of nodes that show their child's data.  `file_calls` has the
threads for each file system.

Each of these uses only those before it: `definitions` and `shortcut` (plain I/O
that goes straight to a file descriptor), the modules in this folder, `drivers`,
`graph`.
"""
