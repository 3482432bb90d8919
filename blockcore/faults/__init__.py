# SPDX-License-Identifier: MIT
"""Which request fails, and how.

`injector` has the rules of a node and decides, for each request, which of them
strikes; `gate` says which byte ranges no rule concerns, so that requests there
may pass without the question.
"""
