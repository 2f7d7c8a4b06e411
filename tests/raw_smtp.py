"""An SMTP peer by hand, for replies that no library sends: slow, endless or missing ones."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

Reply = bytes | Callable[[socket.socket], None]


def drip(text: bytes = b"250 " + b"x" * 10_000, seconds: float = 0.1) -> Callable[[socket.socket], None]:
    """Reply one byte at a time, so that no single wait is long."""

    def send(connection: socket.socket) -> None:
        for number in range(len(text)):
            connection.sendall(text[number : number + 1])
            time.sleep(seconds)

    return send


def silence(connection: socket.socket) -> None:
    """Send nothing until the client disconnects."""
    while connection.recv(65536):
        pass


def hang_up(connection: socket.socket) -> None:
    """Break the connection off."""
    connection.shutdown(socket.SHUT_RDWR)


class RawPeer:
    """Replies to each command with the configured reply or with 250, and keeps the received lines."""

    host = "127.0.0.1"

    def __init__(self, **replies: Reply) -> None:
        self.replies: dict[str, Reply] = {"greeting": b"220 raw", "ehlo": b"250 raw", "data": b"354 go on", **replies}
        self.heard: list[str] = []
        self.mails = self.connections = 0
        self._listener = socket.create_server((self.host, 0))
        self.port: int = self._listener.getsockname()[1]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError), connection.makefile("rb") as lines:
            self._reply(connection, "greeting")
            for line in lines:
                self.heard.append(line.decode().strip())
                command = self.heard[-1].split(" ")[0].lower()
                self._reply(connection, command)
                if command == "data" and self.replies["data"] == b"354 go on":
                    for _ in iter(lines.readline, b".\r\n"):
                        pass
                    self.mails += 1
                    self._reply(connection, "content")

    def _reply(self, connection: socket.socket, command: str) -> None:
        reply = self.replies.get(command, b"250 OK")
        if isinstance(reply, bytes):
            connection.sendall(reply + b"\r\n")
        else:
            reply(connection)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self._listener.close()
