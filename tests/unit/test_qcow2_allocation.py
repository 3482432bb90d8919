# SPDX-License-Identifier: MIT
"""Which clusters an allocation gets, and who waits for whom."""

from __future__ import annotations

from array import array
from pathlib import Path
from random import Random

import pytest

from blockcore.nodes.drivers.qcow2.allocation import Allocation, InFlight
from blockcore.nodes.drivers.qcow2.node import Qcow2Node
from blockcore.nodes.drivers.qcow2.tables import Table
from blockcore.qapi.events import BlockImageCorrupted
from qcow2_disk import Disk
from qcow2_images import Around, create, open_on
from sim import perform

CLUSTER = 512
PER_BLOCK = CLUSTER // 2


@pytest.fixture(name="around")
def _around() -> Around:
    return Around()


@pytest.fixture(name="node")
def _node(tmp_path: Path, around: Around) -> Qcow2Node:
    image = create(tmp_path / "image", 64 << 10, cluster_size=CLUSTER).read_bytes()
    return open_on(Disk(image, around), around)


def used(node: Qcow2Node) -> set[int]:
    """The clusters that have references, by the refcount blocks themselves."""
    refcounts, found = node.write_back.refcounts, set()
    for number in range(len(refcounts.table)):
        block: Table | None = perform(refcounts.block(number))
        if block is not None:
            found |= {number * PER_BLOCK + at for at, count in enumerate(block.values) if count}
    return found


def test_an_allocation_gets_the_first_clusters_that_are_free(node: Qcow2Node) -> None:
    """Within a block, across blocks, and where a block is still to be made.

    None is passed over that is behind the last allocation or was freed since;
    what is not asked for stays free, but for new refcount blocks.
    """
    random, refcounts = Random(1), node.write_back.refcounts
    mine: set[int] = set()
    start = 0
    for _ in range(600):
        if mine and random.random() < 0.45:
            cluster = random.choice(sorted(mine))
            assert perform(refcounts.drop(cluster))
            mine.discard(cluster)
            start = min(start, cluster)
            continue
        count = random.choice([1, 1, 1, 2, 3, 40])
        before = used(node)
        first = perform(refcounts.allocate(count)) // CLUSTER
        given = set(range(first, first + count))
        assert not given & before
        blocks = used(node) - before - given
        assert all(not cluster % PER_BLOCK for cluster in blocks)
        taken = before | blocks
        free = next(at for at in range(start, first + 1) if not taken & set(range(at, at + count)))
        assert first == free
        mine |= given
        start = first + count
    assert max(mine) > 2 * PER_BLOCK
    perform(node.flush())


@pytest.mark.parametrize("count", [1, 2])
def test_metadata_that_has_no_reference_is_not_given_away(
    node: Qcow2Node, around: Around, count: int
) -> None:
    """The image is corrupt, and said to be."""
    refcounts = node.write_back.refcounts
    first = perform(refcounts.allocate(1)) // CLUSTER + count
    node.image.claim(first * CLUSTER, 1, "active L2 table")
    before = used(node)
    with pytest.raises(OSError):
        perform(refcounts.allocate(count))
    assert used(node) == before and node.image.unusable
    (event,) = around.events
    assert isinstance(event, BlockImageCorrupted)
    assert event.msg.endswith("(overlaps with active L2 table)")


def test_who_is_in_the_way_of_whom() -> None:
    """Clusters of an allocation under way are met by one cluster and by runs of them."""
    random, in_flight, under_way = Random(2), InFlight(), list[Allocation]()
    table = Table(0, array("Q"))
    for _ in range(2000):
        first = random.randrange(40)
        last = first + random.choice([0, 0, 1, 5])
        meets = any(first <= one.last and one.first <= last for one in under_way)
        assert in_flight.meets(first, last) is meets
        if not meets and random.random() < 0.5:
            under_way.append(Allocation(first, last, 0, table, 0, True))
            in_flight.begin(under_way[-1])
        elif under_way:
            in_flight.end(under_way.pop(random.randrange(len(under_way))))
