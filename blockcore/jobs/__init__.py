# SPDX-License-Identifier: MIT
"""The kinds of block job.  Theory of operation.

What all jobs have in common is in `blockcore.job`.  A folder here has one kind:
the function that starts it, with the checks that need the graph; the driver,
which does the work and the steps of the end; and the filter that the job puts
over a node.  `rules` are the checks of all kinds, `filters` puts filters over
nodes and takes them away, `undo` takes back the steps of a start that fails.
`copy_data` moves data between nodes, by a `shortcut` where it can.  `sides` tells
whose error it was.  `chunks` is the work of the kinds that go through an image
once.

`stream` fills an image with what it lacks from the images below.  `commit` writes
an image down into an image below it.  `mirror` keeps a copy of a drive up to date
until a user makes the copy the drive; a commit of the image under a running guest
is a mirror, too.  `backup` keeps a copy of what a drive was at one moment.

Guests go on meanwhile.  What has to be done with their requests is done by the
filter: copy-on-read, commit_top, mirror_top, copy-before-write.

A job starts in this order: the filter is inserted, in a drained section; the
job is created, and takes the nodes that it uses; the job is started.  If a step
fails, the steps before it are undone, the last one first, and the client gets
the error.  A job that is cancelled before it is started does not start, and ends
when the command has had its turn.

A job ends in this order: `prepare` changes images and graph, as far as that can
fail; `clean` takes away what is left.  For the start and for the end the job or
command has its turn with that part of the graph (`Machine.changing`).
"""
