# SPDX-License-Identifier: MIT
"""Fault rules: which requests to a node are hit, and what happens to them.

- `options`: the members that all rules have, and the base class of every kind of
  fault.
- `scene`: what a kind has to carry out a request: the clock, chance, and what its
  rule remembers.
- `fail`: the kind that fails a request with an errno.
- `delay`, `hang`: kinds that carry it out late, or not before they are told.
- `lost`: kinds that tell it as done, and drop, tear, misdirect or repeat it.
- `corrupt`: the kind that changes data.
- `disconnect`: the kind that hangs up instead of an answer.
- `bad`: kinds of a medium that cannot be read, or not be written.
- `kinds`: the list of kinds; the QMP types follow from it.
- `states`: the kind that changes blkdebug's state at an event.
- `lines`: rules as text, one or a file of them.
- `changes`: members that replace those of a rule that exists, and those of a sweep.
- `rule`: one rule of a node, with its counters.
- `precedence`: the rules that leave no request to a later one.
- `injector`: the rules of one node; decides for each request which rule hits it.
- `dice`: decisions by chance, which a seed repeats.
- `gate`: byte ranges that rules can hit; a request outside them needs no decision,
  and may take the shortcut.

`BlockNode.perform` asks the injector, and lets the rule's kind carry out the
request.  All of it runs under the big lock, except what `FaultInjector.trace`
returns and `Gate.touches`, which requests on the shortcut call.
"""
