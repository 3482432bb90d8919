# SPDX-License-Identifier: MIT
"""`scripts/bench`: the performance budget of this project, measured against its peers.

Absolute figures drift from minute to minute and mean nothing on another
machine.  Only ratios between servers that were measured in one run count.  All
contenders of a row (one line of the budget) run at once and take turns, round
after round (`rounds.py`); those whose turn it is not are idle.  The ratio of a
row is the median of the ratios of its rounds.
"""
