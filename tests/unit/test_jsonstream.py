# SPDX-License-Identifier: MIT
"""The expected texts are answers of qemu-system-x86_64 7.2 to the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcore.qapi.json.lexer import Lexer
from blockcore.qapi.json.stream import (
    LEXED,
    PIECE,
    JsonStream,
    Limits,
    Parsed,
    ParseError,
    parse_json,
)
from blockcore.qapi.json.writer import encode
from blockcore.qapi.names import QmpError


def pull_all(stream: JsonStream) -> list[Any]:
    """Values as they are, errors as their text behind '!'."""
    items = []
    while not stream.exhausted():
        if item := stream.pull():
            items.append(item.value if isinstance(item, Parsed) else f"!{item.desc}")
    return items


def results(*pieces: bytes, limits: Limits | None = None) -> list[Any]:
    stream = JsonStream(limits)
    items = []
    for piece in pieces:
        stream.feed(piece)
        items += pull_all(stream)
    return items


def bytewise(data: bytes, limits: Limits | None = None) -> list[Any]:
    return results(*(data[n : n + 1] for n in range(len(data))), limits=limits)


def error(what: str) -> str:
    return f"!JSON parse error, {what}"


EXPECTING_VALUE = error("expecting value")
BAD_UTF8 = error("invalid UTF-8 sequence in string")

# A value that is not self-delimiting is followed by a blank here.
TABLE: list[tuple[bytes, list[Any]]] = [
    (b"", []),
    (b" \t\r\n", []),
    (b'{"execute":"x"}', [{"execute": "x"}]),
    (b"{'execute':'x'}", [{"execute": "x"}]),
    (b'{"a":1}{"a":2}', [{"a": 1}, {"a": 2}]),
    (b"1 2 ", [1, 2]),
    (b'"a""b"', ["a", "b"]),
    (b"[[],{},[{}]]", [[[], {}, [{}]]]),
    (b"true false null ", [True, False, None]),
    (b"true1 ", [True, 1]),
    (b"true", []),
    (b'{"x":"', []),
    (b"}", [EXPECTING_VALUE]),
    (b"]", [EXPECTING_VALUE]),
    (b",", [EXPECTING_VALUE]),
    (b":", [EXPECTING_VALUE]),
    (b'{"a":}', [EXPECTING_VALUE]),
    (b'{"a":1,}', [EXPECTING_VALUE]),
    (b'{"a":1,"a":}', [EXPECTING_VALUE]),
    (b"[1,]", [EXPECTING_VALUE]),
    (b"[,1]", [EXPECTING_VALUE]),
    (b"[}", [EXPECTING_VALUE]),
    (b"{[}]", [EXPECTING_VALUE]),
    (b'{"a":1}}', [{"a": 1}, EXPECTING_VALUE]),
    (b'{"a"}', [error("missing : in object pair")]),
    (b'{"a":1 "b"}', [error("expected separator in dict")]),
    (b'{"a":0e1}', [error("expected separator in dict")]),
    (b'{"a":-0e1}', [error("expected separator in dict")]),
    (b'{"a":1a}', [error("expected separator in dict")]),
    (b"[1 2]", [error("expected separator in list")]),
    (b"{1:2}", [error("key is not a string in object")]),
    (b"{{}:2}", [error("key is not a string in object")]),
    (b"{a:1}", [error("invalid keyword 'a'")]),
    (b"abc\n", [error("invalid keyword 'abc'")]),
    (b"tru e ", [error("invalid keyword 'tru'"), error("invalid keyword 'e'")]),
    (b'{"a":1,"a":2}', [error("duplicate key")]),
    (b"{'a':1,\"\\u0061\":2}", [error("duplicate key")]),
    # Stray bytes, and where the lexer finds its feet again.
    (b"\xff", [error("stray '\ufffd'")]),
    (b"\0", [error("stray ''")]),
    (b"\x7f", [error("stray '\x7f'")]),
    (b"\x0c", [error("stray '\x0c'")]),
    (b"\xff\xff", [error("stray '\ufffd'")] * 2),
    (b"\xe2\x82\xac", [error("stray '\ufffd'")]),
    (b"//x", [error("stray '/'")]),
    (b"/ x\t{}", [error("stray '/'"), {}]),
    (b"NaN", [error("stray 'N'")]),
    (b"%d", [error("stray '%'")]),
    (b"a_b", [error("invalid keyword 'a'"), error("stray '_'")]),
    (b'{"a":\0{"b":1}', [error("stray ''"), {"b": 1}]),
    (b'{"execute":"x"\n\xff{"b":1}', [error("stray '\ufffd'"), {"b": 1}]),
    (b'["a\xff"]', [error("stray '\"a\ufffd'"), EXPECTING_VALUE]),
    (b'["a\0b"]', [error("stray '\"a'"), EXPECTING_VALUE]),
    (b'["a\nb"]', [error("stray '\"a\n'"), EXPECTING_VALUE]),
    (b'["a\tb"]', [error("stray '\"a\t'"), EXPECTING_VALUE]),
    (b"[00]", [error("stray '00'"), EXPECTING_VALUE]),
    (b"[-]", [error("stray '-]'")]),
    (b"[1.]", [error("stray '1.]'")]),
    (b"[1e]", [error("stray '1e]'")]),
    (b"[1.5.5]", [error("stray '.'"), EXPECTING_VALUE]),
    # Strings.
    (b'["\\"\\\'\\\\\\/\\b\\f\\n\\r\\t"]', [["\"'\\/\b\f\n\r\t"]]),
    (b"['\\\"', 'it\\'s']", [['"', "it's"]]),
    (b'["\\u00e9\\ud83d\\ude00\\u0000"]', [["\u00e9\U0001f600\0"]]),
    (b'["\xc3\xa9\xf0\x9f\x98\x80\x7f\xc0\x80"]', [["\u00e9\U0001f600\x7f\0"]]),
    (b'["a\\qb"]', [error("invalid escape sequence in string")]),
    (b'["\\\xc3\xa9"]', [error("invalid escape sequence in string")]),
    (b'["\\ud83d"]', [error("\\ud83d is not a valid Unicode character")]),
    (b'["\\ud83d\\u0041"]', [error("\\ud83d is not a valid Unicode character")]),
    (b'["\\ude00"]', [error("\\ude00 is not a valid Unicode character")]),
    (b'["\\uffff"]', [error("\\uffff is not a valid Unicode character")]),
    (b'["\\ufdd0"]', [error("\\ufdd0 is not a valid Unicode character")]),
    (b'["\\u12g4"]', [error("\\u12g4 is not a valid Unicode character")]),
    (b'["\\u12"]', [error('\\u12" is not a valid Unicode character')]),
    (b'{"a":"\\ud83d"}', [error("\\ud83d is not a valid Unicode character")]),
    (b'["\xc3"]', [BAD_UTF8]),
    (b'["\x80"]', [BAD_UTF8]),
    (b'["\xed\xa0\x80"]', [BAD_UTF8]),
    (b'["\xf4\x90\x80\x80"]', [BAD_UTF8]),
    (b'["\xf8\x88\x80\x80\x80"]', [BAD_UTF8]),
    (b'["\xef\xbf\xbf"]', [BAD_UTF8]),
    (b'["\xe2\x82\xe2\x82\xac"]', [BAD_UTF8]),
    # Numbers.
    (b"[0, -0, -1]", [[0, 0, -1]]),
    (b"[18446744073709551615]", [[(1 << 64) - 1]]),
    (b"[-9223372036854775808]", [[-(1 << 63)]]),
]


@pytest.mark.parametrize(("data", "expected"), TABLE, ids=[repr(data) for data, _ in TABLE])
def test_table_in_one_piece_and_bytewise(data: bytes, expected: list[Any]) -> None:
    assert results(data) == expected
    assert bytewise(data) == expected


@pytest.mark.parametrize(
    ("text", "value", "written"),
    [
        ("1e3", 1000.0, "1000"),
        ("1.50", 1.5, "1.5"),
        ("1E+3", 1000.0, "1000"),
        ("-0.0", -0.0, "-0"),
        ("0.1", 0.1, "0.10000000000000001"),
        ("0.0e1", 0.0, "0"),
        ("1e16", 1e16, "10000000000000000"),
        ("1e17", 1e17, "1e+17"),
        ("5e-324", 5e-324, "4.9406564584124654e-324"),
        ("18446744073709551616", 18446744073709551616.0, "1.8446744073709552e+19"),
        ("-9223372036854775809", -9223372036854775808.0, "-9.2233720368547758e+18"),
        ("123456789.123456789", 123456789.12345679, "123456789.12345679"),
    ],
)
@pytest.mark.parametrize("template", ['{"a": %s}', "{'a': %s}"], ids=["short way", "long way"])
def test_floats_are_read_and_written_as_qemu_does(
    template: str, text: str, value: float, written: str
) -> None:
    (parsed,) = results((template % text).encode())
    assert parsed == {"a": value}
    assert type(parsed["a"]) is float
    assert encode(parsed) == b'{"a": ' + written.encode() + b"}\r\n"


@pytest.mark.parametrize("text", ["1e400", "-1e999", "9" * 5000, "0." + "0" * 20_000])
@pytest.mark.parametrize("template", ['{"id": %s}', "{'id': [%s]}"], ids=["short way", "long way"])
def test_no_number_that_could_not_be_written(template: str, text: str) -> None:
    """QEMU echoes an `id` of 1e400 as ``inf``, which is not JSON."""
    (refusal,) = results((template % text).encode())
    assert refusal.startswith("!JSON parse error, number out of range '" + text[:1000])
    assert len(refusal) < 1100


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"return": {}, "id": None}, b'{"return": {}, "id": null}'),
        ({"a": [], "b": [1, True], "c": {"d": "x"}}, b'{"a": [], "b": [1, true], "c": {"d": "x"}}'),
        (
            {"a": [], "b": {}, "c": [1.5, 2.0, {"x": "1.5", "y": [3.0]}]},
            b'{"a": [], "b": {}, "c": [1.5, 2, {"x": "1.5", "y": [3]}]}',
        ),
        ("\u00e9\U0001f600\r\n", b'"\\u00e9\\ud83d\\ude00\\r\\n"'),
        (2.0, b"2"),
        ({"f": "\udcfc\u00fc\U0001f600"}, b'{"f": "\\ufffd\\u00fc\\ud83d\\ude00"}'),
        ("\\udcfc", b'"\\\\udcfc"'),
    ],
    ids=repr,
)
def test_encode(value: Any, written: bytes) -> None:
    assert encode(value) == written + b"\r\n"


SMALL = Limits(token_size=40, token_count=20, nesting=4)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"[" * 4 + b"]" * 4, [[[[[]]]]]),
        (b"[" * 5, ["!JSON nesting depth limit exceeded"]),
        (
            b'{"a":{"a":{"a":{"a":[]}}}}',
            ["!JSON nesting depth limit exceeded", *[EXPECTING_VALUE] * 4],
        ),
        (b"[" + b"1," * 8 + b"1]", [[1] * 9]),
        (b"[" + b"1," * 9 + b"1]", ["!JSON token count limit exceeded"]),
        (b'"' + b"a" * 37 + b'"', ["a" * 37]),
        (b'"' + b"a" * 38 + b'"', ["!JSON token size limit exceeded"]),
        (b'"' + b"a" * 40, ["!JSON token size limit exceeded"]),
        (b'["' + b"a" * 36 + b'"]', ["!JSON token size limit exceeded"]),
        (b"1" * 41 + b" 2 ", ["!JSON token size limit exceeded", 2]),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_limits(data: bytes, expected: list[Any]) -> None:
    assert results(data, limits=SMALL)[: len(expected)] == expected
    assert bytewise(data, limits=SMALL) == results(data, limits=SMALL)


def test_nesting_up_to_the_limit_is_read_and_echoed() -> None:
    data = b"[" * 1024 + b"]" * 1024
    (value,) = results(data)
    assert encode(value) == data + b"\r\n"
    data = b'{"id": ' + b"[" * 1023 + b"]" * 1023 + b"}"
    (value,) = results(data)
    assert encode(value) == data + b"\r\n"
    assert results(b"[" * 1025) == ["!JSON nesting depth limit exceeded"]


def test_feeding_looks_at_nothing_before_pull() -> None:
    stream = JsonStream()
    assert stream.exhausted()
    stream.feed(b"} ")
    stream.feed(b"{}")
    assert not stream.exhausted()
    assert stream.pull() == ParseError("JSON parse error, expecting value")
    assert stream.pull() is None, "the end of a piece"
    assert stream.pull() == Parsed({}, 2)
    assert stream.exhausted()


LARGE = {
    "nothing but errors": bytes(20_000),
    "values": b"1 " * 20_000,
    "small objects": b'{"a":1}' * 20_000,
    "an array": b"[" + b"1," * 50_000 + b"1]",
    "an object": b"{" + b",".join(b'"%d":1' % n for n in range(20_000)) + b"}",
    "an array of objects": b"[" + b'{"a":[]},' * 20_000 + b"1]",
    "depth": b'{"a":' * 20_000,
    "a string": b'"' + b"a" * 500_000 + b'"',
    "escapes": b'{"a":"' + b"\\n" * 100_000 + b'"}',
    "umlauts": b'["' + "\u00e4".encode() * 100_000 + b'"]',
    "a stray string": b'"' + b"a" * 100_000 + b"\0",
    "a number": b"1" * 100_000 + b" ",
    "a name": b"a" * 100_000 + b" ",
    "blanks": b" " * 100_000,
    "unfinished": b'{"a":"' + b"a" * 100_000,
}


@pytest.mark.parametrize("data", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_input_is_looked_at_in_small_pieces(
    size: int, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call does much, whatever comes, and all calls together look at every byte about once."""
    looked_at = [0]
    scan = Lexer.scan

    def counting(lexer: Lexer, data: bytes, start: int, end: int) -> tuple[bytes | None, bool, int]:
        result = scan(lexer, data, start, end)
        looked_at[0] += result[2] - start
        return result

    monkeypatch.setattr(Lexer, "scan", counting)
    stream = JsonStream()
    pulls = 0
    for start in range(0, len(data), size):
        stream.feed(data[start : start + size])
        while not stream.exhausted():
            before = looked_at[0]
            stream.pull()
            assert looked_at[0] - before <= LEXED
            pulls += 1
    assert looked_at[0] <= len(data)
    assert pulls >= len(data) / PIECE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"driver":"raw"', "JSON parse error, premature EOI"),
        ("{", "JSON parse error, premature EOI"),
        ('{"driver"', "JSON parse error, premature EOI"),
        ('{"driver":', "JSON parse error, premature EOI"),
        ('{"a":1,', "JSON parse error, premature EOI"),
        ('{"driver":1', "JSON parse error, premature EOI"),
        ('{"driver":nul', "JSON parse error, invalid keyword 'nul'"),
        ('{"dri', "JSON parse error, stray '\"dri'"),
        ("-", "JSON parse error, stray '-'"),
        ('{"driver":raw}', "JSON parse error, invalid keyword 'raw'"),
        ('{"a":1 "b":1}', "JSON parse error, expected separator in dict"),
        ('{"driver":"raw"}}', "Expecting at most one JSON value"),
        ('{"driver":"raw"} x', "Expecting at most one JSON value"),
        ("", "Expecting a JSON value"),
        (" ", "Expecting a JSON value"),
    ],
)
def test_parse_json_refuses(text: str, expected: str) -> None:
    with pytest.raises(QmpError) as caught:
        parse_json(text)
    assert caught.value.desc == expected


def test_parse_json() -> None:
    assert parse_json(' {"driver": "raw", \'file\': "\u00e9"}\n') == {
        "driver": "raw",
        "file": "\u00e9",
    }
    assert parse_json("42") == 42


ATOMS = [
    *(bytes([byte]) for byte in b"{}[]:,\"'\\-+01.eEax \n\t\x00\xff\x80%"),
    b'"a"',
    b'{"a":1}',
    b'{"a":',
    b"true",
    b"\\u00e9",
    b"\\ud83d",
    b"\xc3\xa9",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(ATOMS), max_size=30).map(b"".join), st.data())
def test_chunking_never_matters(data: bytes, draw: st.DataObject) -> None:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=5)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert repr(results(*pieces)) == repr(results(data)) == repr(bytewise(data))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text("ab\u00e9'\"\\\n"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(JSON_VALUES, st.booleans())
def test_what_is_written_is_read_back(value: Any, ascii_only: bool) -> None:
    assert results(encode(value)) == [value]
    assert bytewise(encode(value)) == [value]
    assert results(json.dumps(value, ensure_ascii=ascii_only).encode() + b" ") == [value]
