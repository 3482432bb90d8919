# SPDX-License-Identifier: MIT
"""All nodes of one machine: made, linked, changed and found.

`graph` opens and closes nodes and keeps their names; `make` chooses the driver,
`inherit` the options that a definition leaves open, `backing` finds the file
that an image names.  `relink` changes links of a running graph, with all that
this owes to others; `links` makes, cuts and moves a single one, `conflicts` checks
permissions.  `chain` walks down images; `changing` says who may change which part at a
time.
`reopen` changes options of open nodes, `create` makes image files, `abilities`
are what jobs ask about a node.
"""
