"""An SMTP server that discards what it gets, as fast as Python can: `python tests/bench/sink.py PORT`.

aiosmtpd checks all that a client may do wrong, and would be the bottleneck for several workers.
"""

import asyncio
import sys
from typing import cast

import uvloop

END = b"\r\n.\r\n"


class Discarding(asyncio.Protocol):
    """One session. It accepts every command and every email."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.received, self.is_content = cast("asyncio.Transport", transport), b"", False
        self.transport.write(b"220 bench ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := END if self.is_content else b"\r\n") in self.received:
            command, _, self.received = self.received.partition(end)
            verb = b"" if self.is_content else command[:4].upper()
            self.is_content = verb == b"DATA"
            self.transport.write(
                b"354 go on\r\n" if self.is_content else b"221 bye\r\n" if verb == b"QUIT" else b"250 OK\r\n"
            )
            if verb == b"QUIT":
                self.transport.close()


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Discarding, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
