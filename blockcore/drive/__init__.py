# SPDX-License-Identifier: MIT
"""A drive: what one guest device has, and the life of its requests.

`block_backend` is QEMU's BlockBackend with the device on it.  `guest_request`
holds a request while the machine does not run, tries it, and lets the policy
decide about a failure.  Reads and writes that nothing concerns take the
shortcut of the drive instead (`nodes.shortcut`), without the big lock; all
else here runs under it.  `recording` has the lines that tell what a machine
is asked and does, `recorded` is a drive whose requests are in them.
"""
