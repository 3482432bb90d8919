# SPDX-License-Identifier: MIT
"""Two copies at once, one of which finds its disk full for a while; with asyncio.

Run it with python3; put your own program in nbdcopy's place.
"""

import asyncio
import os
import tempfile

from faultline import Drive
from faultline.aio import Machine

PATIENCE_S = 30  # nothing waits longer
SIZE = 16 << 20


async def copy(source, uri):
    program = await asyncio.create_subprocess_exec("nbdcopy", source, uri)
    try:
        return await asyncio.wait_for(program.wait(), PATIENCE_S)
    except TimeoutError:
        program.kill()
        raise


async def main(source):
    drives = Drive(size=SIZE, id="vda", werror="stop"), Drive(size=SIZE, id="vdb", werror="stop")
    async with Machine(*drives, timeout=PATIENCE_S) as machine:
        fault = await machine.fault("vdb", iotype="write", errno="ENOSPC", offset="8M")
        copies = [copy(source, drive.uri) for drive in machine.drives.values()]
        both = asyncio.gather(*copies)
        error = await machine.wait_event("BLOCK_IO_ERROR", action="stop")
        await machine.wait_event("STOP")
        print("failed:", error["device"], error["reason"])
        print("io-status:", *[drive["io-status"] for drive in await machine.query_block()])
        await fault.remove()
        await machine.cont()
        print("copies ended with", *await both)


if __name__ == "__main__":
    with tempfile.NamedTemporaryFile() as source:
        source.write(os.urandom(SIZE))
        source.flush()
        asyncio.run(main(source.name))
