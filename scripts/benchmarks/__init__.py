# SPDX-License-Identifier: MIT
"""`scripts/bench`: this project's performance budget, measured against its peers.

Absolute figures drift from minute to minute and mean nothing on another
machine.  What counts are ratios between servers that were measured in the
same run: all contenders of a row run at once, idle but for the one whose turn
it is, and take turns round after round (`rounds.py`); the ratio of a row is the
median of its rounds' ratios.
"""
