# SPDX-License-Identifier: MIT
"""The qcow2 format, read and written natively.  Theory of operation.

`header` knows the bytes of the first cluster, `extensions` what follows the
header in it, `entries` the entries of the L1 and L2 tables; `tables` caches
tables.  An `Image` (`image`) is what all parts of one open image share.
`opening` reads and checks what has to be known before an image can be used,
`repair` makes refcounts right again, `metadata` knows which clusters are not data;
`settings` are the driver's options.

`refcount` allocates clusters with the counts that `refcount_table` keeps;
`mapping` finds a guest offset's cluster.  `read` serves guest reads,
`compressed` what is compressed of them.  `write` serves guest writes,
`allocation` registers their new clusters; `shortcut` reads and writes clusters
that are there, and writes whole new ones, without a coroutine.  `erase` makes
zeroes and holes, `resize` changes the length and `shrink` cuts the file;
`write_back` brings metadata to the file.  `create` makes new images, `info` says
what is in one's header, `stored_bitmaps` finds and drops dirty bitmaps in one.
`node.Qcow2Node` puts them together.

Tables change in memory only, and atomically, between two awaits.  What a crash
can find in the file follows from two rules:

- A refcount in memory is never lower than the number of references that the
  file may still hold.  It goes up when a cluster is allocated, and down only
  after what referred to the cluster has been overwritten in the file
  (`write_back`); refcount blocks may therefore be written at any moment.
- L2 tables are written after the refcount blocks, and after the data that they
  point to; L1 entries after the L2 tables that they point to.

At worst, clusters are leaked.

Locks: `Image.lock` serialises whoever reads, allocates or writes metadata.
It is not held during guest I/O: a read or write that finds its table cached
takes no lock at all.  Writes that allocate register the guest clusters, and
later writes to the same clusters wait (`write.InFlight`).  A cluster that lost
its last reference is not allocated again before all I/O that may have seen the
reference is over (`grace`).
"""
