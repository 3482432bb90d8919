# SPDX-License-Identifier: MIT
"""QemuOpts and keyval, their escapes, and what QEMU says to malformed ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcore.qapi.keyval import Tree, crumple, flatten, parse_keyval, parse_opts
from blockcore.qapi.names import QmpError
from blockcore.qapi.texts import opt_bool, opt_number, opt_size

OPTS = {
    "": {},
    "a=b,c=d": {"a": "b", "c": "d"},
    "a=b,": {"a": "b"},
    "a=b,,c,d=,,": {"a": "b,c", "d": ","},
    "a=b,,": {"a": "b,"},
    "a==b=c": {"a": "=b=c"},
    "a=1,a=2": {"a": "2"},
    "id=1,id=2": {"id": "1"},
    "readonly,nocache": {"readonly": "on", "cache": "off"},
    "=5": {"": "5"},
    "x.y=1": {"x.y": "1"},
    'file=json:{"a":1,,"b":2},c=d': {"file": 'json:{"a":1,"b":2}', "c": "d"},
}


@pytest.mark.parametrize(("text", "expected"), OPTS.items(), ids=OPTS)
def test_opts(text: str, expected: dict[str, str]) -> None:
    assert parse_opts(text) == expected


IMPLIED = {
    "raw,a=b": {"driver": "raw", "a": "b"},
    "driver=raw,a=b": {"driver": "raw", "a": "b"},
    "raw": {"driver": "raw"},
    "a,,b,c=d": {"driver": "a,b", "c": "d"},
    "": {},
}


@pytest.mark.parametrize("parse", [parse_opts, parse_keyval])
@pytest.mark.parametrize(("text", "expected"), IMPLIED.items(), ids=IMPLIED)
def test_implied_key(
    parse: Callable[[str, str], dict[str, Tree]], text: str, expected: dict[str, str]
) -> None:
    assert parse(text, "driver") == expected


KEYVAL: dict[str, dict[str, Tree]] = {
    "": {},
    "a=b,": {"a": "b"},
    "a=b,,": {"a": "b,"},
    "a.b=1,a.c.d=2": {"a": {"b": "1", "c": {"d": "2"}}},
    "a.b=1,a.b=2": {"a": {"b": "2"}},
    "l.1.x=b,l.0.x=a": {"l": [{"x": "a"}, {"x": "b"}]},
    "l.00=a,l.01=b": {"l": ["a", "b"]},
    "l.0.0=a": {"l": [["a"]]},
    "__com.example_x.y=1": {"__com.example_x": {"y": "1"}},
    "set-state.0.new_state=1": {"set-state": [{"new_state": "1"}]},
}


@pytest.mark.parametrize(("text", "expected"), KEYVAL.items(), ids=KEYVAL)
def test_keyval(text: str, expected: dict[str, Tree]) -> None:
    assert parse_keyval(text) == expected


REFUSED = {
    "a=1,foo": "Expected '=' after parameter 'foo'",
    "=b": "Invalid parameter ''",
    "a=1,=": "Invalid parameter ''",
    "x.=m": "Invalid parameter 'x.'",
    ".x=m": "Invalid parameter '.x'",
    "x..y=m": "Invalid parameter 'x..y'",
    "1x=m": "Invalid parameter '1x'",
    "-x=m": "Invalid parameter '-x'",
    "x.-y=m": "Invalid parameter 'x.-y'",
    "x y=m": "Invalid parameter 'x y'",
    "0=m": "Invalid parameter '0'",
    "0.x=m": "Invalid parameter '0.x'",
    "x" * 128 + "=m": f"Parameter '{'x' * 128}' is too long",
    "a.b=1,a=2": "Parameters 'a.*' used inconsistently",
    "a=1,a.b=2": "Parameters 'a.*' used inconsistently",
    "a.b.c=1,a.b=2": "Parameters 'a.b.*' used inconsistently",
    "l.0=a,l.x=b": "Parameters 'l.*' used inconsistently",
    "l.1=a": "Parameter 'l.0' missing",
    "l.0=a,l.2=b": "Parameter 'l.1' missing",
    "l.0=a,l.99999999999=b": "Parameter 'l.1' missing",
    "a.l.1.x=1": "Parameter 'a.l.0' missing",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=REFUSED.values())
def test_keyval_refused(text: str, message: str) -> None:
    with pytest.raises(QmpError) as caught:
        parse_keyval(text)
    assert caught.value.desc == message


KEYS = st.from_regex(r"[a-z][a-z0-9_-]{0,5}", fullmatch=True)
TREES = st.recursive(
    st.text(),
    lambda inner: (
        st.dictionaries(KEYS, inner, min_size=1, max_size=4)
        | st.lists(inner, min_size=1, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, TREES, max_size=4))
def test_flatten_crumple_and_text_agree(tree: dict[str, Tree]) -> None:
    flat = flatten(tree)
    strings = {key: value for key, value in flat.items() if isinstance(value, str)}
    assert crumple(strings) == tree
    text = ",".join(f"{key}={value.replace(',', ',,')}" for key, value in strings.items())
    assert parse_keyval(text) == tree
    assert parse_opts(text) == strings


def test_flatten_keeps_the_types_of_leaves() -> None:
    assert flatten({"a": {"b": 1}, "c": [True, {"d": "x"}]}) == {
        "a.b": 1,
        "c.0": True,
        "c.1.d": "x",
    }


@pytest.mark.parametrize("text", ["on", "yes", "true", "y"])
def test_true(text: str) -> None:
    assert opt_bool(text, "x") is True


@pytest.mark.parametrize("text", ["off", "no", "false", "n"])
def test_false(text: str) -> None:
    assert opt_bool(text, "x") is False


@pytest.mark.parametrize("text", ["", "ON", "1", "maybe", "on "])
def test_no_bool(text: str) -> None:
    with pytest.raises(QmpError, match="^Parameter 'x' expects 'on' or 'off'$"):
        opt_bool(text, "x")


NUMBERS = {"0": 0, "010": 8, "0x1F": 31, " 7": 7, "+7": 7, "-1": 2**64 - 1, "-0": 0}


@pytest.mark.parametrize(("text", "expected"), NUMBERS.items(), ids=NUMBERS)
def test_number(text: str, expected: int) -> None:
    assert opt_number(text, "x") == expected


@pytest.mark.parametrize("text", ["", "x", "08", "1k", "1.5", "5 ", "0x", "--1", "\u0665"])
def test_no_number(text: str) -> None:
    with pytest.raises(QmpError, match="^Parameter 'x' expects a number$"):
        opt_number(text, "x")


@pytest.mark.parametrize("text", ["18446744073709551616", "-99999999999999999999", "9" * 5000])
def test_number_too_large(text: str) -> None:
    with pytest.raises(QmpError) as caught:
        opt_number(text, "x")
    assert caught.value.desc == f"Value '{text}' is too large for parameter 'x'"


SIZES = {
    "0": 0,
    "512": 512,
    "512b": 512,
    "1k": 1024,
    "1K": 1024,
    "1.5k": 1536,
    "1.0": 1,
    "2G": 2 << 30,
    "1e": 1 << 60,
    "0x200": 512,
    "010": 10,
}


@pytest.mark.parametrize(("text", "expected"), SIZES.items(), ids=SIZES)
def test_size(text: str, expected: int) -> None:
    assert opt_size(text, "x") == expected


@pytest.mark.parametrize("text", ["", "x", "1x", "-1", "1.5", "1 k", "k", "1kb"])
def test_no_size(text: str) -> None:
    with pytest.raises(
        QmpError, match=r"^Parameter 'x' expects a non-negative number below 2\^64$"
    ):
        opt_size(text, "x")


@pytest.mark.parametrize("text", ["99999999999999999999", "16e", "9" * 5000])
def test_size_out_of_range(text: str) -> None:
    with pytest.raises(QmpError) as caught:
        opt_size(text, "x")
    assert caught.value.desc == f"Value '{text}' is out of range for parameter 'x'"
