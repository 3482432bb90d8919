# SPDX-License-Identifier: MIT
"""What the translators have in common: lines, words, numbers, and how a word is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

Rule = dict[str, Any]
"""Members of x-fault-add."""

SECTOR = 512
"""Bytes of the sectors in which the kernel's tools count."""

WRITES = ["write", "write-zeroes", "discard"]
"""The requests with a place that the kernel counts as writes."""


def refuse(word: str, why: str) -> NoReturn:
    """Raise ValueError for a word."""
    raise ValueError(f"'{word}': {why}")


def lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the words of each line that is not blank, nor a comment (``#``)."""
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            yield number, words


@contextmanager
def line(number: int) -> Iterator[None]:
    """Begin the message of a ValueError of the body with the number of the line."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None


def whole(word: str, what: str) -> int:
    """Return a word that is a whole number, not below zero; `what` names it in the error."""
    if not re.fullmatch(r"[0-9]+", word):
        refuse(word, f"{what} is a whole number")
    return int(word)


def pairs(text: str, ignored: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """Yield NAME and VALUE of the words NAME=VALUE of a text, but for the words `ignored`."""
    for _, words in lines(text):
        for word in words:
            if word in ignored or word == "\\":
                continue
            name, equals, value = word.partition("=")
            if not equals or not name:
                refuse(word, "it is no NAME=VALUE")
            yield name, value
