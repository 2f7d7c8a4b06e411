"""The floods themselves: each keeps many connections, and does with each of them what harms others."""

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from multiprocessing.synchronize import Event

from bench.requests import post

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Visit = Callable[[Streams], Awaitable[object]]

HEAD = b"POST /v1/registrations HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
CHUNK = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
MEBIBYTE = 2**20
# If more connections were opened at a time, the kernel would refuse the rest.
AT_ONCE = 200
# A client that means harm comes again soon after it was refused.
AGAIN_SECONDS = 0.05


async def sign_in(streams: Streams) -> None:
    """Sign in wrongly, again and again."""
    reader, writer = streams
    request = post("/v1/sessions", email="nobody@example.org", password="a wrong but long password")
    while True:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"\r\ncontent-length: ")[2].split(b"\r\n")[0]
        await reader.readexactly(int(length))


@asynccontextmanager
async def _answer(reader: asyncio.StreamReader) -> AsyncIterator[asyncio.Task[bytes]]:
    """Wait for a response while something is sent."""
    answer = asyncio.create_task(reader.read(65536))
    try:
        yield answer
    finally:
        answer.cancel()
        await asyncio.wait({answer})
        # Otherwise the loop would complain that nobody looked at it.
        answer.cancelled() or answer.exception()


def slowly(begun: bytes) -> Visit:
    """Return what sends a beginning at once and then one byte a second."""

    async def visit(streams: Streams) -> None:
        reader, writer = streams
        writer.write(begun)
        async with _answer(reader) as answer:
            while not answer.done():
                writer.write(b"x")
                await writer.drain()
                await asyncio.wait({answer}, timeout=1)

    return visit


async def say_nothing(streams: Streams) -> None:
    """Hold a connection until the server lets go of it."""
    await streams[0].read(65536)


async def promise_a_body(streams: Streams) -> None:
    """Announce a body, and send nothing of it."""
    streams[1].write(HEAD + b"Content-Length: 1000\r\n\r\n")
    await say_nothing(streams)


async def send_chunks(streams: Streams) -> None:
    """Send a body without an end, as fast as it is taken."""
    reader, writer = streams
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    async with _answer(reader) as answer:
        while not answer.done():
            writer.write(CHUNK)
            await writer.drain()
            await asyncio.sleep(0)


async def send_headers(streams: Streams) -> None:
    """Send a mebibyte of headers."""
    reader, writer = streams
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: bench\r\nX-Filler: " + b"x" * MEBIBYTE + b"\r\n\r\n")
    await reader.read(65536)


FLOODS: dict[str, tuple[int, Visit]] = {
    "sign-ins": (64, sign_in),
    "many sign-ins": (200, sign_in),
    "slow headers": (1000, slowly(HEAD + b"X-Filler: ")),
    "slow bodies": (1000, slowly(HEAD + b"Content-Length: 1000\r\n\r\n")),
    "promised bodies": (1000, promise_a_body),
    "endless chunks": (20, send_chunks),
    "huge headers": (50, send_headers),
    "idle connections": (5000, say_nothing),
}


async def _client(port: int, visit: Visit, opening: asyncio.Semaphore) -> None:
    """Come again and again."""
    while True:
        writer = None
        try:
            async with opening:
                reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 20)
            await visit((reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if writer:
                writer.close()
        await asyncio.sleep(AGAIN_SECONDS)


async def _flood(kind: str, port: int, begun: Event, stop: Event) -> None:
    number, visit = FLOODS[kind]
    opening = asyncio.Semaphore(AT_ONCE)
    clients = [asyncio.create_task(_client(port, visit, opening)) for _ in range(number)]
    await asyncio.sleep(1 + number / 2000)
    begun.set()
    await asyncio.to_thread(stop.wait)
    for client in clients:
        client.cancel()


def flood(kind: str, port: int, begun: Event, stop: Event) -> None:
    """Flood a port of this machine until told to stop; say when the flood has begun."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_flood(kind, port, begun, stop))
