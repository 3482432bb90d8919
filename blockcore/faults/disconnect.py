# SPDX-License-Identifier: MIT
"""The kind of fault that hangs up a guest's connection instead of an answer."""

from __future__ import annotations

from blockcore.faults.options import FaultOptions, FaultOrigin, Go, R, Request
from blockcore.faults.scene import Scene
from blockcore.qapi.errnos import HungUp
from blockcore.qapi.names import QmpError
from blockcore.qapi.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect(FaultOptions):
    """Options of a rule that ends the connection on which a request has come.

    The request is not carried out, and nothing that is under way on that
    connection is answered.  Error policies do not apply, since no device has
    failed.  Requests of jobs have no connection, so the rule does not match them.
    """

    def check(self) -> None:
        FaultOptions.check(self)
        if self.origin is FaultOrigin.JOB:
            raise QmpError("Parameter 'origin' value 'job' does not go with action 'disconnect'")

    @property
    def is_choosy(self) -> bool:
        return True

    def is_of(self, connection: int) -> bool:
        return connection != 0 and FaultOptions.is_of(self, connection)

    async def carry_out(self, request: Request, go: Go[R], scene: Scene) -> R:
        scene.host.hang_up((scene.host.asker().connection,))
        raise HungUp
