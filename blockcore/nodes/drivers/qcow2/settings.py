# SPDX-License-Identifier: MIT
"""Options of the qcow2 driver, after checks and defaults."""

from __future__ import annotations

from dataclasses import replace

from blockcore.nodes.definitions.options import BlockdevOptionsQcow2
from blockcore.nodes.drivers.qcow2.header import Header
from blockcore.nodes.drivers.qcow2.mapping import DEFAULT_L2_CACHE_SIZE, MAX_CACHE_SIZE
from blockcore.nodes.drivers.qcow2.write_back import Discard
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2Settings:
    """The driver's settings; sizes in bytes.

    `discard_request` None means: as the node's `discard` option says.
    """

    l2_cache_size: int = DEFAULT_L2_CACHE_SIZE
    lazy_refcounts: bool = False
    discard_request: bool | None = None
    discard_other: bool = False
    drop_bitmaps: bool = False

    @classmethod
    def of(cls, options: BlockdevOptionsQcow2) -> Qcow2Settings:
        """Return the settings that a definition asks for; raise QmpError (read_cache_sizes).

        ``cache-size`` is shared by L2 tables and refcount blocks: the L2 tables get
        what is left of it after the refcount blocks, unless their size is given.
        """
        total, l2_size = options.cache_size, options.l2_cache_size
        rest = options.refcount_cache_size
        if total is not None:
            if l2_size is not None and rest is not None:
                raise QmpError(
                    "cache-size, l2-cache-size and refcount-cache-size may not be set at the"
                    " same time"
                )
            if l2_size is not None and l2_size > total:
                raise QmpError("l2-cache-size may not exceed cache-size")
            if rest is not None and rest > total:
                raise QmpError("refcount-cache-size may not exceed cache-size")
            l2_size = total - (rest or 0) if l2_size is None else l2_size
        l2_size = DEFAULT_L2_CACHE_SIZE if l2_size is None else l2_size
        return cls(
            l2_cache_size=min(l2_size, MAX_CACHE_SIZE),
            lazy_refcounts=bool(options.lazy_refcounts),
            discard_request=options.pass_discard_request,
            discard_other=bool(options.pass_discard_other),
            drop_bitmaps=bool(options.x_drop_bitmaps),
        )

    def check(self, header: Header) -> None:
        """Raise QmpError if the image's version does not allow these settings."""
        if self.lazy_refcounts and header.version < 3:
            raise QmpError(
                "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level"
            )

    def changed(self, other: Qcow2Settings) -> Qcow2Settings:
        """Return the settings of an open image that is to get `other`.

        The sizes of caches stay as they are.
        """
        return replace(other, l2_cache_size=self.l2_cache_size)

    def passes_discard(self, why: Discard, unmap: bool) -> bool:
        """Tell whether a cluster that is freed for reason `why` is discarded in the file.

        `unmap` says that the node passes guests' discards on.
        """
        if why is not Discard.REQUEST:
            return why is Discard.ALWAYS or self.discard_other
        return unmap if self.discard_request is None else self.discard_request
