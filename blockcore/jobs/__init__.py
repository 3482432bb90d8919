# SPDX-License-Identifier: MIT
"""The kinds of block job.  Theory of operation.

What all jobs have in common is in `blockcore.job`; a folder here has one kind:
the function that starts it, with the checks that need the graph, the driver
that a `BlockJob` has for the work and the steps of its end, and the filter that
it puts over a node.  `rules` are the checks of all kinds, `filters` puts filters
there and takes them away, `copy_data` moves data between nodes, by a `shortcut`
where it can, `sides` tells whose error it was, `chunks` is the work of those that
go through an image once.

`stream` fills an image with what it lacks from below.  `commit` writes an image
down into one below it.  `mirror` keeps a copy of a drive up to date until
somebody says that it is the drive from now on; committing the image under a
running guest is that as well.  `backup` keeps a copy of what a drive was at one
moment.

Guests go on meanwhile.  What has to be done with their requests is done by a
filter over the node in question, which the job puts there and takes away:
copy-on-read, commit_top, mirror_top, copy-before-write.

A job starts in this order: the filter is inserted, in a drained section; the
job is created, which takes the nodes it uses; it is started.  If one of these
fails, what was done is undone, last things first, and the client is told why.  It ends in this
order: `prepare` changes images and graph, as far as that can fail; `clean`
takes away what is left.  Whoever does either has that part of
`Machine.changing`.
"""
