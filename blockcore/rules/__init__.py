# SPDX-License-Identifier: MIT
"""Pure decisions: tables and arithmetic that look at nothing but their arguments.

What a policy makes of an error (`policy`), which run state may follow which
(`runstate`), what may be asked of a job in which status (`job_status`); dirty
bitmaps (`bitmap`), counters (`accounting`), limits on drives (`throttle`,
`throttle_group`) and on jobs (`ratelimit`), volumes that run full (`volume`); whole
units (`ranges`).  `host` is what parts of the machine need of it.
"""
