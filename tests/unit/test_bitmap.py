# SPDX-License-Identifier: MIT
"""Dirty bitmaps without a machine, against a plain set of granules."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcore.qapi.names import QmpError
from blockcore.rules.bitmap import DirtyBitmap, NodeBitmaps

KIB = 1024
GRANULARITIES = (512, 1024, 4096)


class Model:
    """The granules that are dirty, as numbers in a set."""

    def __init__(self, size: int, granularity: int) -> None:
        self.size = size
        self.granularity = granularity
        self.dirty: set[int] = set()

    def granules(self, offset: int, length: int) -> set[int]:
        """Those of the node that a range touches."""
        touched = {byte // self.granularity for byte in range(offset, offset + length, 512)}
        if length:
            touched.add((offset + length - 1) // self.granularity)
        return {number for number in touched if number * self.granularity < self.size}

    def bytes(self) -> list[bool]:
        return [byte // self.granularity in self.dirty for byte in range(self.size)]

    def areas(self) -> list[tuple[int, int]]:
        areas: list[tuple[int, int]] = []
        for number in sorted(self.dirty):
            start = number * self.granularity
            end = min(start + self.granularity, self.size)
            if areas and sum(areas[-1]) == start:
                start = areas.pop()[0]
            areas.append((start, end - start))
        return areas


Script = list[tuple[str, int, int]]
"""What to do, and its arguments; those that a step does not need are ignored."""

sizes = st.integers(0, 24 * KIB)
ranges = st.tuples(st.integers(0, 26 * KIB), st.integers(0, 8 * KIB))
steps = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "reset", "resize", "clear"]),
        st.integers(0, 26 * KIB),
        st.integers(0, 8 * KIB),
    ),
    max_size=12,
)


def play(bitmap: DirtyBitmap, model: Model, script: Script) -> None:
    """Do the same to both."""
    for what, offset, length in script:
        if what == "set":
            bitmap.set(offset, length)
            model.dirty |= model.granules(offset, length)
        elif what == "reset":
            start = offset // model.granularity * model.granularity
            stop = min(start + length // model.granularity * model.granularity, model.size)
            if start < stop:
                bitmap.reset(start, stop - start)
                model.dirty -= model.granules(start, stop - start)
        elif what == "resize":
            bitmap.resize(offset)
            model.size = offset
            model.dirty = {n for n in model.dirty if n * model.granularity < offset}
        else:
            bitmap.clear()
            model.dirty.clear()


@given(sizes, st.sampled_from(GRANULARITIES), steps)
def test_every_question_has_the_answer_of_a_set(
    size: int, granularity: int, script: Script
) -> None:
    bitmap, model = DirtyBitmap(size, granularity), Model(size, granularity)
    play(bitmap, model, script)
    assert list(bitmap.areas()) == model.areas()
    assert bitmap.count == len(model.dirty) * granularity
    truth = model.bytes()
    for offset in range(0, model.size, 509):
        assert bitmap.get(offset) == truth[offset]


@given(sizes, st.sampled_from(GRANULARITIES), steps, ranges, st.integers(1, 8 * KIB))
def test_searches_begin_and_end_where_they_are_told(
    size: int,
    granularity: int,
    script: Script,
    window: tuple[int, int],
    most: int,
) -> None:
    bitmap, model = DirtyBitmap(size, granularity), Model(size, granularity)
    play(bitmap, model, script)
    start, end = window[0], sum(window)
    truth = model.bytes()[:end]
    dirty = next((byte for byte in range(start, len(truth)) if truth[byte]), None)
    clean = next((byte for byte in range(start, len(truth)) if not truth[byte]), None)
    assert bitmap.next_dirty(start, end) == dirty
    assert bitmap.next_clean(start, end) == clean
    if dirty is None:
        assert bitmap.next_dirty_area(start, end, most) is None
    else:
        length = 0
        while length < most and dirty + length < len(truth) and truth[dirty + length]:
            length += 1
        assert bitmap.next_dirty_area(start, end, most) == (dirty, length)


@given(sizes, st.sampled_from(GRANULARITIES), steps, st.sampled_from(GRANULARITIES), steps)
def test_merge_adds_and_takes_nothing_away(
    size: int,
    granularity: int,
    script: Script,
    other_granularity: int,
    other_script: Script,
) -> None:
    fixed = [step for step in script if step[0] != "resize"]
    other_fixed = [step for step in other_script if step[0] != "resize"]
    bitmap, model = DirtyBitmap(size, granularity), Model(size, granularity)
    other, other_model = DirtyBitmap(size, other_granularity), Model(size, other_granularity)
    play(bitmap, model, fixed)
    play(other, other_model, other_fixed)
    before = bitmap.bits()
    bitmap.merge(other)
    for offset, length in other_model.areas():
        model.dirty |= model.granules(offset, length)
    assert list(bitmap.areas()) == model.areas()
    assert bitmap.count == len(model.dirty) * granularity
    assert list(other.areas()) == other_model.areas()
    bitmap.restore(before)
    untouched = DirtyBitmap(size, granularity)
    play(untouched, Model(size, granularity), fixed)
    assert list(bitmap.areas()) == list(untouched.areas())
    assert bitmap.count == untouched.count


def test_bitmaps_of_different_sizes_do_not_merge() -> None:
    with pytest.raises(QmpError) as caught:
        DirtyBitmap(2 << 20, 65536).merge(DirtyBitmap(1024000, 65536))
    assert caught.value.desc == (
        "Bitmaps are of different sizes (destination size is 2097152, source size is"
        " 1024000) and can't be merged"
    )


def test_a_tebibyte_is_searched_and_merged_without_visiting_every_bit() -> None:
    bitmap, other = DirtyBitmap(1 << 40, 64 * KIB), DirtyBitmap(1 << 40, 64 * KIB)
    for number in range(1000):
        other.set((number << 30) + 5, 1)
    bitmap.merge(other)
    assert bitmap.count == 1000 * 64 * KIB
    assert [offset for offset, _ in bitmap.areas()] == [number << 30 for number in range(1000)]


def names(bitmaps: NodeBitmaps) -> list[tuple[str | None, bool, bool, int]]:
    return [(b.name, b.busy, b.recording, b.count) for b in bitmaps]


def node_bitmaps(size: int = 1 << 20) -> tuple[NodeBitmaps, DirtyBitmap, list[bool]]:
    """A node's bitmaps with one, "b", and what the node was told about recording."""
    seen: list[bool] = []
    bitmaps = NodeBitmaps(lambda: seen.append(bool(bitmaps.recording)))
    bitmap = DirtyBitmap(size, 64 * KIB, "b")
    bitmaps.add(bitmap)
    return bitmaps, bitmap, seen


def test_writes_go_to_what_records() -> None:
    bitmaps, bitmap, seen = node_bitmaps()
    bitmaps.mark(0, 1)
    bitmaps.enable(bitmap, False)
    bitmaps.mark(1 << 19, 1)
    assert names(bitmaps) == [("b", False, False, 64 * KIB)]
    assert seen == [True, False]


BITMAP_CHANGES: dict[str, Callable[[NodeBitmaps, DirtyBitmap], object]] = {
    "add": lambda bitmaps, bitmap: bitmaps.add(DirtyBitmap(1 << 20, 64 * KIB)),
    "remove": lambda bitmaps, bitmap: bitmaps.remove(bitmap),
    "disable": lambda bitmaps, bitmap: bitmaps.enable(bitmap, False),
    "successor": lambda bitmaps, bitmap: bitmaps.create_successor(bitmap),
}


@pytest.mark.parametrize("change", BITMAP_CHANGES.values(), ids=BITMAP_CHANGES)
def test_each_change_is_told(change: Callable[[NodeBitmaps, DirtyBitmap], object]) -> None:
    """Whoever goes past the node decides anew where writes are marked."""
    bitmaps, bitmap, seen = node_bitmaps()
    before = len(seen)
    change(bitmaps, bitmap)
    assert len(seen) > before


def test_marks_from_other_threads_are_counted() -> None:
    bitmap = DirtyBitmap(1 << 30, 512)
    bitmap.set(0, 512)

    def write(number: int) -> None:
        for step in range(2000):
            bitmap.set_unlocked((number * 2000 + step) * 1024, 512)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for step in range(2000):
        bitmap.set((8000 + step) * 1024, 512)
        assert bitmap.count % 512 == 0
    for thread in threads:
        thread.join()
    assert bitmap.count == 10000 * 512
    assert [offset for offset, _ in bitmap.areas()] == [n * 1024 for n in range(10000)]


def test_successor_records_while_the_bitmap_is_busy_and_takes_its_name() -> None:
    bitmaps, bitmap, _ = node_bitmaps()
    bitmaps.mark(0, 1)
    bitmaps.create_successor(bitmap)
    bitmaps.mark(1 << 19, 64 * KIB + 1)
    assert names(bitmaps) == [(None, False, True, 128 * KIB), ("b", True, True, 64 * KIB)]
    with pytest.raises(QmpError, match="^Bitmap 'b' is currently in use by another operation"):
        bitmaps.create_successor(bitmap)
    successor = bitmaps.abdicate(bitmap)
    assert names(bitmaps) == [("b", False, True, 128 * KIB)]
    assert bitmaps.find("b") is successor


def test_reclaimed_bitmap_has_the_writes_of_both() -> None:
    bitmaps, bitmap, seen = node_bitmaps()
    bitmaps.mark(0, 1)
    bitmaps.create_successor(bitmap)
    bitmaps.mark(1 << 19, 1)
    bitmaps.resize(2 << 20)
    bitmaps.reclaim(bitmap)
    bitmaps.mark(1 << 20, 1)
    assert names(bitmaps) == [("b", False, True, 3 * 64 * KIB)]
    assert all(seen)


@pytest.mark.parametrize("enabled", [True, False], ids=["enabled", "disabled"])
def test_successor_records_only_if_the_bitmap_did(enabled: bool) -> None:
    bitmaps, bitmap, _ = node_bitmaps()
    bitmaps.enable(bitmap, enabled)
    bitmaps.create_successor(bitmap)
    assert bool(bitmaps.recording) is enabled
    bitmaps.reclaim(bitmap)
    assert bitmap.enabled is enabled


@pytest.mark.parametrize(
    ("name", "desc"),
    [("b", "Bitmap already exists: b"), ("x" * 1024, f"Bitmap name too long: {'x' * 1024}")],
    ids=["taken", "long"],
)
def test_names_that_cannot_be(name: str, desc: str) -> None:
    bitmaps, _, _ = node_bitmaps()
    with pytest.raises(QmpError) as caught:
        bitmaps.add(DirtyBitmap(1 << 20, 64 * KIB, name))
    assert caught.value.desc == desc
    bitmaps.add(DirtyBitmap(1 << 20, 64 * KIB, "x" * 1023))
    bitmaps.add(DirtyBitmap(1 << 20, 64 * KIB))
    bitmaps.add(DirtyBitmap(1 << 20, 64 * KIB))


def test_unknown_name() -> None:
    with pytest.raises(QmpError, match="^Dirty bitmap 'zz' not found$"):
        node_bitmaps()[0].find("zz")
