"""Run commands of `tiles` as forks of one process that has imported the service: a start costs milliseconds.

Each command is a separate process with its own environment, folder and standard streams, as if it were executed.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

TILES = Path(sys.executable).with_name("tiles")
# Variables that Python and the C library read before our code runs.
READ_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "TZ")


class Forked:
    """A command that runs in a fork, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, ended: socket.socket) -> None:
        self._ended, self.pid, self.returncode = ended, int(ended.recv(100)), None

    def poll(self) -> int | None:
        """Return the exit status; None while it runs."""
        if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, seconds: float | None = None) -> int:
        """Return the exit status as soon as there is one."""
        if self.returncode is None:
            if not select.select([self._ended], [], [], seconds)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), seconds or 0)
            self.returncode = int(self._ended.recv(100))
            self._ended.close()
        return self.returncode

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class _Server:
    """The process that forks, and the socket for requests to it."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        atexit.register(self._end)

    def _end(self) -> None:
        self._control.close()
        self._process.wait()

    def start(self, arguments: Sequence[str | Path], variables: dict[str, str], *outputs: IO[bytes]) -> Forked:
        """Start a command that writes to these two files."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = json.dumps([arguments, variables, str(Path.cwd())]).encode()
        with theirs, Path(os.devnull).open("rb") as null:
            files = [theirs, null, *outputs]
            socket.send_fds(self._control, [request], [file.fileno() for file in files])
        return Forked(ours)


_servers: list[_Server] = []


def start(arguments: Sequence[str | Path], variables: dict[str, str], out: IO[bytes], err: IO[bytes]) -> Forked | None:
    """Start a command of `tiles` in its own session; return None if it must be executed instead."""
    names = {name for name in {*variables, *_AT_START} if name.startswith(READ_AT_START)} - {"PYTHONDONTWRITEBYTECODE"}
    if any(variables.get(name) != _AT_START.get(name) for name in names):
        return None
    if not _servers:
        _servers.append(_Server())
    return _servers[0].start(arguments, variables, out, err)


def run(arguments: list[str], variables: dict[str, str], seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command of `tiles` to its end."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start(arguments, variables, out, err)
        if process is None:
            return subprocess.run(
                [TILES, *arguments], env=variables, capture_output=True, text=True, timeout=seconds, check=False
            )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(arguments, status, *(_text(file) for file in (out, err)))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n")


_AT_START = dict(os.environ)


def _serve(control: socket.socket) -> None:
    """Fork for each request; return in the process that is to run the command, or at the end."""
    while True:
        request, streams, *_ = socket.recv_fds(control, 2**20, 4)
        if not request:
            sys.exit()
        if os.fork() == 0:
            control.close()
            if _supervise(request, *streams):
                return
        for stream in streams:
            os.close(stream)
        # Reap the children that have ended.
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _supervise(request: bytes, answer: int, *streams: int) -> bool:
    """Fork once more: return True in the child only. The parent waits for it and exits."""
    child = os.fork()
    if child:
        os.write(answer, str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
        os._exit(0)
    os.setsid()
    os.write(answer, str(os.getpid()).encode())
    os.close(answer)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    arguments, variables, folder = json.loads(request)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv = [str(TILES), *arguments]
    return True


if __name__ == "__main__":
    # Import the modules that a command would import, not those in this file's folder.
    sys.path.pop(0)
    package = importlib.import_module("backend.commands")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"backend.commands.{module.name}")
    importlib.import_module("sqlalchemy.dialects.postgresql.psycopg")
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(importlib.import_module("backend.commands.serve").main())
