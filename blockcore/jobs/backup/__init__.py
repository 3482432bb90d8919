# SPDX-License-Identifier: MIT
"""Backups (`block/backup.c`): a copy of what a drive was when the job began.

`job` starts, works and ends; `block_copy` copies each cluster once, by `copy_call`s
of the job and of guests; `filter` is copy-before-write, which saves what a guest
is about to overwrite.
"""
