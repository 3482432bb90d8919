# SPDX-License-Identifier: MIT
"""Rules that come too late: the first that matches a request decides."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcore.faults.injector import FaultInjector
from blockcore.faults.kinds import FAULT_OPTIONS
from blockcore.faults.options import FaultOptions
from blockcore.faults.precedence import Takers
from blockcore.qapi.names import FaultIOType
from blockcore.qapi.schema import parse
from rules import Host

KINDS = [str(kind) for kind in FaultIOType]

Rule = dict[str, Any]

LATE: list[tuple[list[Rule], Rule, list[str]]] = [
    ([{}], {}, ["a"]),
    ([{}], {"iotype": "write", "offset": 512, "count": 2, "rate": 0.5}, ["a"]),
    ([{"errno": 0}], {}, ["a"]),
    ([{"action": "hang", "iotype": ["read", "flush"]}], {"iotype": "flush"}, ["a"]),
    ([{"iotype": "read"}, {"iotype": "write"}], {"iotype": ["read", "write"]}, ["a", "b"]),
    ([{"offset": 0, "length": 4096}], {"sector": 7}, ["a"]),
    ([{"offset": 0}], {"iotype": "read"}, ["a"]),
    ([{"offset": 512}], {"iotype": ["read", "flush"], "sector": 1}, ["a"]),
    ([{"origin": "guest"}], {"connection": 3}, ["a"]),
    ([{"action": "disconnect"}], {"origin": "guest"}, ["a"]),
    ([{"action": "disconnect"}], {"action": "disconnect"}, ["a"]),
    ([{"state": 2}], {"state": 2}, ["a"]),
    ([{"iotype": "write", "fua": True}], {"iotype": "write", "fua": True}, ["a"]),
    ([{"iotype": "connect"}], {"iotype": "connect", "action": "hang"}, ["a"]),
    # What a rule before leaves, or may leave.
    ([], {}, []),
    ([{"offset": 0}], {}, []),
    ([{"offset": 0, "length": 4096}], {"sector": 8}, []),
    ([{"iotype": "read"}], {"iotype": ["read", "write"]}, []),
    ([{}], {"iotype": "connect"}, []),
    ([{}], {"event": "pwritev"}, []),
    ([{"event": "pwritev"}], {}, []),
    ([{"action": "disconnect"}], {}, []),
    ([{"action": "badblock"}], {"iotype": "read"}, []),
    ([{"origin": "job"}], {"connection": 3}, []),
    ([{"connection": 3}], {"connection": 4}, []),
    ([{"origin": "job"}], {"origin": "guest"}, []),
    ([{"state": 2}], {}, []),
    ([{"fua": True}], {"iotype": "write", "fua": False}, []),
    *(
        ([{name: value}], {}, [])
        for name, value in (
            *(("count", 9), ("once", True), ("after", 1), ("every", 2), ("rate", 0.9)),
            *(("not-before-ms", 1), ("not-after-ms", 1), ("while-file", "/f")),
        )
    ),
    ([{"up-ms": 1, "down-ms": 1}], {}, []),
    ([{}], {"action": "set-state", "event": "pwritev", "new-state": 2}, []),
]


def options(id: str, members: Rule) -> FaultOptions:
    found = parse(FAULT_OPTIONS, {"node-name": "n", "id": id, **members})
    assert isinstance(found, FaultOptions)
    found.check()
    return found


@pytest.mark.parametrize(("first", "late", "wanted"), LATE, ids=str)
def test_who_leaves_nothing(first: list[Rule], late: Rule, wanted: list[str]) -> None:
    injector = FaultInjector(Host())
    takers = Takers()
    for id, members in zip("ab", first, strict=False):
        takers.add(injector.add(options(id, members)))
    assert takers.of(injector.add(options("late", late))) == wanted


_PLACES = st.sampled_from(
    [{}, {"sector": 1}, *({"offset": o, "length": n} for o in (0, 512, 1024) for n in (512, 2048))]
)
_RULES = st.builds(
    lambda place, kinds, more: {**place, **kinds, **more},
    _PLACES,
    st.one_of(
        st.just({}),
        st.fixed_dictionaries(
            {"iotype": st.lists(st.sampled_from(["read", "write", "discard"]), min_size=1)}
        ),
    ),
    st.sampled_from([{}, {}, {"origin": "guest"}, {"connection": 2}, {"count": 1}]),
)
_REQUESTS = st.tuples(
    st.sampled_from([FaultIOType.READ, FaultIOType.WRITE, FaultIOType.DISCARD, FaultIOType.FLUSH]),
    st.integers(0, 8),
    st.integers(1, 8),
    st.sampled_from([0, 1, 2]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_RULES, min_size=2, max_size=6), st.lists(_REQUESTS, min_size=1, max_size=30))
def test_a_rule_that_is_said_to_come_too_late_hits_nothing(
    rules: list[Rule], requests: list[tuple[FaultIOType, int, int, int]]
) -> None:
    host = Host()
    injector = FaultInjector(host)
    made = [injector.add(options(f"f{at}", members)) for at, members in enumerate(rules)]
    takers = Takers()
    late = []
    for rule in made:
        late.append(takers.of(rule))
        takers.add(rule)
    for kind, sector, sectors, host.asking in requests:
        is_flush = kind is FaultIOType.FLUSH
        injector.check(kind, *((0, 0) if is_flush else (sector * 512, sectors * 512)))
    for rule, first in zip(made, late, strict=True):
        assert not first or rule.hits == rule.seen == 0
