# SPDX-License-Identifier: MIT
"""The texts of scalars: booleans, numbers and sizes as QEMU's command line has them.

Two parsers of QEMU read them, and differ in what they accept.  The functions
`opt_...` are those of `-drive` and the like (`util/qemu-option.c`), which have
error messages of their own.  The others are those of keyval, for which a
visitor words the error (`qapi/qobject-input-visitor.c`): they return None for a
text that is none of theirs.
"""

from __future__ import annotations

import re
from typing import Final

from blockcore.qapi.errors import QmpError

INT64_MIN: Final = -(1 << 63)
INT64_MAX: Final = (1 << 63) - 1
UINT64_MAX: Final = (1 << 64) - 1

BOOLEANS: Final = dict.fromkeys(("on", "yes", "true", "y"), True) | dict.fromkeys(
    ("off", "no", "false", "n"), False
)
"""What means true, and what means false (qapi_bool_parse)."""

_SUFFIXES: Final = "bkmgtpe"
"""Powers of 1024, from 0."""

_OPT_NUMBER: Final = re.compile(r"\s*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_OPT_SIZE: Final = re.compile(
    r"\s*\+?(?:(0[xX][0-9a-fA-F]+)|([0-9]+)(\.[0-9]*)?([bBkKmMgGtTpPeE]?))"
)
# strtoll with base 0: white space, sign, then hexadecimal, octal or decimal.
_INTEGER: Final = re.compile(r"[ \t-\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))")
_NUMBER: Final = re.compile(r"[ \t-\r]*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# Hexadecimal takes the suffix too: b and e are digits there.
_SIZE: Final = re.compile(
    r"[ \t-\r]*\+?(?:0[xX]([0-9a-fA-F]+)|([0-9]+)(?:\.([0-9]*))?)([bBkKmMgGtTpPeE]?)"
)


def integer(text: str, *, signed: bool) -> int | None:
    """Return an integer of 64 bits, or None (qemu_strtoi64, qemu_strtou64)."""
    # First the form, in any of the three bases; then the sign; then the range.  An unsigned
    # number may be negative and wraps around, as with strtoull.
    match = _INTEGER.fullmatch(text)
    if match is None:
        return None
    sign, hexadecimal, octal, decimal = match.groups()
    # More digits than 64 bits have; int() raises ValueError for thousands of them.
    if decimal and len(decimal) > 20:
        return None
    if hexadecimal:
        value = int(hexadecimal, 16)
    else:
        value = int(octal, 8) if octal else int(decimal)
    if sign == "-":
        value = -value
    if signed and INT64_MIN <= value <= INT64_MAX:
        return value
    if not signed and -UINT64_MAX <= value <= UINT64_MAX:
        return value & UINT64_MAX
    return None


def number(text: str) -> float | None:
    """Return a finite number, or None (qemu_strtod_finite)."""
    if not _NUMBER.fullmatch(text) or abs(float(text)) == float("inf"):
        return None
    return float(text)


def size(text: str) -> int | None:
    """Return a number of bytes with a fraction and a suffix, or None (qemu_strtosz)."""
    match = _SIZE.fullmatch(text)
    if match is None or len(text) > 4096:
        return None
    hexadecimal, whole, fraction, suffix = match.groups()
    unit: int = 1024 ** _SUFFIXES.index(suffix.lower()) if suffix else 1
    value = (int(hexadecimal, 16) if hexadecimal else int(whole)) * unit
    if fraction and fraction.strip("0"):
        if unit == 1:
            return None
        value += int(float(f"0.{fraction}") * unit + 0.5)
    return value if value <= UINT64_MAX else None


def opt_bool(text: str, name: str) -> bool:
    """Return the boolean of an option, or raise QmpError (parse_option_bool)."""
    if text not in BOOLEANS:
        raise QmpError(f"Parameter '{name}' expects 'on' or 'off'")
    return BOOLEANS[text]


def opt_number(text: str, name: str) -> int:
    """Return the number of an option, or raise QmpError (parse_option_number).

    Unsigned, 64 bits; hexadecimal and octal have C's prefixes.  A negative
    number wraps around, as with strtoull.
    """
    match = _OPT_NUMBER.fullmatch(text)
    if match is None:
        raise QmpError(f"Parameter '{name}' expects a number")
    digits = match[2]
    if digits[:2] in ("0x", "0X"):
        value = _magnitude(digits[2:], 16)
    else:
        value = _magnitude(digits, 8 if digits[0] == "0" else 10)
    if value > UINT64_MAX:
        raise QmpError(f"Value '{text}' is too large for parameter '{name}'")
    return -value % (1 << 64) if match[1] == "-" else value


def opt_size(text: str, name: str) -> int:
    """Return the bytes of an option, or raise QmpError (parse_option_size).

    The text may have a fraction, and a binary suffix: k, M, G, T, P or E.
    """
    match = _OPT_SIZE.fullmatch(text)
    if match is None:
        raise QmpError(f"Parameter '{name}' expects a non-negative number below 2^64")
    if match[1]:
        value = _magnitude(match[1][2:], 16)
    else:
        unit = 1024 ** _SUFFIXES.index((match[4] or "b").lower())
        fraction = (match[3] or ".")[1:40]
        if fraction.strip("0") and unit == 1:
            raise QmpError(f"Parameter '{name}' expects a non-negative number below 2^64")
        value = _magnitude(match[2], 10) * unit + int(fraction or "0") * unit // 10 ** len(fraction)
    if value > UINT64_MAX:
        raise QmpError(f"Value '{text}' is out of range for parameter '{name}'")
    return value


def _magnitude(digits: str, base: int) -> int:
    """Return the number, or 2^64 if it has more digits than 64 bits can have."""
    # int() would raise ValueError for a decimal of more than 4300 digits.
    significant = digits.lstrip("0")
    return 1 << 64 if len(significant) > 22 else int(significant or "0", base)
