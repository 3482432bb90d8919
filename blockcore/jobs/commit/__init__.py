# SPDX-License-Identifier: MIT
"""block-commit of an image that no guest writes (`block/commit.c`).

`job` is the commit, `filter` is commit_top over the image that is committed.
"""
