# SPDX-License-Identifier: MIT
"""All nodes of one machine: made, linked, changed and found.

`graph` opens and closes nodes and keeps their names; `make` chooses the driver,
`inherit` the options that a definition leaves open, `backing` finds the file
that an image names.  `links` makes, cuts and moves links and checks permissions;
`chain` walks down images; `changing` says who may change which part at a time.
`reopen` changes options of open nodes, `create` makes image files, `abilities`
are what jobs ask about a node.
"""
