# SPDX-License-Identifier: MIT
"""The qcow2 format, read and written natively.  Theory of operation.

`header` parses and writes the first cluster, `extensions` the extensions in it;
`entries` has the entries of L1 and L2 tables, `tables` caches tables.  An `Image`
(`image`) is what all parts of one open image share.  `opening` reads and checks
everything that must be known before an image can be used, `repair` corrects
refcounts, `metadata` keeps which clusters hold metadata, `settings` has the
driver's options, `raised` the events at the file.

`refcount` allocates clusters with the counts that `refcount_table` keeps;
`mapping` finds the cluster of a guest offset.  `read` serves guest reads,
`compressed` decompresses clusters.  `write` serves guest writes, `allocation`
registers their new clusters.  `shortcut` reads and writes existing clusters, and
writes whole new ones, without a coroutine.  `erase` makes zeroes and holes,
`resize` changes the length and `shrink` cuts the file; `write_back` writes
metadata to the file.  `create` makes new images, `info` reports the header,
`stored_bitmaps` finds and drops dirty bitmaps in an image.  `node.Qcow2Node`
puts them together.

Tables change in memory first, each change complete between two awaits.  Two
rules limit what a crash can leave in the file:

- A refcount in memory is never lower than the number of references that the
  file may still hold.  It goes up when a cluster is allocated, and down only
  after the entry that referred to the cluster was overwritten in the file
  (`write_back`); refcount blocks may therefore be written at any moment.
- L2 tables are written after the refcount blocks, and after the data that they
  point to; L1 entries after the L2 tables that they point to.

At worst, a crash leaks clusters.

Locks: `Image.lock` serialises all that reads, allocates or writes metadata.
It is not held during guest I/O: a read or write that finds its table cached
takes no lock at all.  A write that allocates registers the guest clusters, and
later writes to these clusters wait (`allocation.InFlight`).  A cluster that lost
its last reference is not allocated again before all I/O that may have seen the
reference is over (`grace`).
"""
