# SPDX-License-Identifier: MIT
"""All nodes of one machine: made, linked, changed and found.

`graph` opens and closes nodes and keeps their names.  For it, `make` chooses the
driver, `inherit` the options that a definition leaves out, and `backing` finds
the file that an image names.  `relink` changes links of a running graph and does
what each change requires elsewhere; `links` makes, cuts and moves single links,
`conflicts` checks permissions.  `chain` walks down chains of images.  `changing`
gives each part of the graph to one command or job at a time.  `reopen` changes
options of open nodes, `create` makes image files, `abilities` tells what a node
can do together with its children.
"""
