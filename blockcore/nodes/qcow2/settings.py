"""Options of the driver."""

from __future__ import annotations

from dataclasses import dataclass, replace

from blockcore.nodes.options import BlockdevOptions, BlockdevOptionsQcow2
from blockcore.nodes.qcow2.mapping import DEFAULT_L2_CACHE_SIZE
from blockcore.nodes.qcow2.write_back import Discard


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2Settings:
    """What can be set of the driver; `discard_request` None is as the node's discard."""

    l2_cache_size: int = DEFAULT_L2_CACHE_SIZE
    lazy_refcounts: bool = False
    discard_request: bool | None = None
    discard_other: bool = False

    def changed(self, definition: BlockdevOptions) -> Qcow2Settings:
        """What an open image can follow of another definition: not the sizes of caches."""
        if not isinstance(definition, BlockdevOptionsQcow2):
            return self
        return replace(
            self,
            discard_request=definition.pass_discard_request,
            discard_other=bool(definition.pass_discard_other),
        )

    def passes_discard(self, why: Discard, unmap: bool) -> bool:
        """Whether a freed cluster is discarded below.

        `unmap`: the node passes guests' discards on.
        """
        if why is not Discard.REQUEST:
            return why is Discard.ALWAYS or self.discard_other
        return unmap if self.discard_request is None else self.discard_request
