"""Run commands of `tiles` as forks of one process that has imported the service: a start costs milliseconds.

Each command is a process of its own with its own environment, folder and standard streams, as if it was executed.
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
from pathlib import Path
from typing import Any

TILES = Path(sys.executable).with_name("tiles")
# What Python and the C library read before any code of ours runs.
READ_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "TZ")
# The server's own processes are started by the name of the program.
EXECUTED = {"serve"}


class _Server:
    """The process that forks, and the socket over which it is asked to."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        atexit.register(self._end)

    def _end(self) -> None:
        self._control.close()
        self._process.wait()

    def run(self, arguments: list[str], variables: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = json.dumps([arguments, variables, str(Path.cwd())]).encode()
        with ours, theirs, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            with Path(os.devnull).open("rb") as nothing:
                streams = [theirs.fileno(), nothing.fileno(), out.fileno(), err.fileno()]
                socket.send_fds(self._control, [request], streams)
            theirs.close()
            pid = int(ours.recv(100))
            if not select.select([ours], [], [], seconds)[0]:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(arguments, seconds)
            status = int(ours.recv(100))
            texts = [_text(file) for file in (out, err)]
        return subprocess.CompletedProcess(arguments, status, *texts)


def _text(file: Any) -> str:  # noqa: ANN401 - a temporary file
    file.seek(0)
    text: str = file.read().decode()
    return text.replace("\r\n", "\n")


_servers: list[_Server] = []


def run(arguments: list[str], variables: dict[str, str], seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command of `tiles` to its end."""
    names = {name for name in {*variables, *_AT_START} if name.startswith(READ_AT_START)} - {"PYTHONDONTWRITEBYTECODE"}
    if arguments[0] in EXECUTED or any(variables.get(name) != _AT_START.get(name) for name in names):
        return subprocess.run(
            [TILES, *arguments], env=variables, capture_output=True, text=True, timeout=seconds, check=False
        )
    if not _servers:
        _servers.append(_Server())
    return _servers[0].run(arguments, variables, seconds)


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
        # Those that have ended.
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _supervise(request: bytes, answer: int, *streams: int) -> bool:
    """Fork once more: return True in the new process, and never in the one that waits for it."""
    child = os.fork()
    if child:
        os.write(answer, str(child).encode())
        os.write(answer, str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
        os._exit(0)
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
    # Not what lies beside this file, but what a command would find.
    sys.path.pop(0)
    package = importlib.import_module("backend.commands")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"backend.commands.{module.name}")
    importlib.import_module("sqlalchemy.dialects.postgresql.psycopg")
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(importlib.import_module("backend.commands.serve").main())
