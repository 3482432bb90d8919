# SPDX-License-Identifier: MIT
"""The QMP commands, a module for each subject; `by_name` imports the one that is needed.

`table` puts all of them together, for commands about commands; `version` is theirs as well.

The machine: `run_state`, `requests`, `power`, `yank`.  Drives and nodes: `block_config` changes
them, `drives` has their policies, `block_info`, `image_info` and `block_stats`
tell about them, `faults` and `sweeps` have their rules (`fault_checks` those that hit
nothing), `fault_files` files of rules, `bitmaps` their dirty bitmaps, `volumes` the
thin volumes below.
Images: `snapshots`.  Jobs: `mirrors`, `backups`, `streams` and `commits` start
them, `jobs` steers them, `job_info` tells about them.  Several changes or none:
`transaction`, with `actions` and `bitmap_actions`; `transactions` adds all kinds of action.

A command gets the machine and its checked arguments, runs under the big lock, and
raises QmpError in QEMU's words.
"""
