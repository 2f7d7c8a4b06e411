"""`tiles` as processes of their own."""

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import forking
import httpx2
from forking import TILES
from peers import free_port, wait_for


def environment(instance_path: Path, **settings: object) -> dict[str, str]:
    """Return an environment for `tiles` whose only settings are these, with Argon2 at its cheapest."""
    values: dict[str, object] = {
        "instance_path": instance_path,
        "argon2_memory_kib": 8,
        "argon2_time_cost": 1,
        **settings,
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TILES_")}
    return inherited | {f"TILES_{name.upper()}": str(value) for name, value in values.items()}


def run_tiles(instance_path: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a command of `tiles` to its end."""
    return forking.run([*arguments], environment(instance_path, **settings))


def catches_term(pid: int) -> bool:
    """Return whether a process handles SIGTERM, and so finishes its work: it sets the handler after its start."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


class ServerProcess:
    """`tiles serve` as an operator runs it: separate processes, settings from the environment, a log in a file.

    Used as a context it is started, ready when the block begins, and gone with all its processes when it ends.
    Each `start` is a new process on the same instance folder, the same port and the same log.
    """

    # Whether a start is a fork of a process that has imported the service: it takes a third of the processor time.
    forked = False

    def __init__(self, folder: Path, *arguments: str, port: int | None = None, **settings: object) -> None:
        self.port = port or free_port()
        self.instance_path, self.log_path = folder / "instance", folder / "serve.log"
        self.url = f"http://127.0.0.1:{self.port}"
        self._command: list[str | Path] = [TILES, "serve", "--port", str(self.port), *arguments]
        self._environment = environment(self.instance_path, **{"public_url": self.url, **settings})
        self._process: subprocess.Popen[bytes] | forking.Forked | None = None
        self._leaders: list[int] = []

    @property
    def log(self) -> str:
        """The output of the process on both streams."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    @property
    def pid(self) -> int:
        """The started process: the supervisor of the server processes."""
        assert self._process
        return self._process.pid

    def start(self) -> None:
        """Start without waiting for anything."""
        with self.log_path.open("ab") as log:
            unchanged = self.forked and self._command[0] == TILES
            forked = unchanged and forking.start(self._command[1:], self._environment, log, log)
            self._process = forked or subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._leaders.append(self._process.pid)

    def wait_until_ready(self, seconds: float = 40) -> None:
        """Wait until `/readyz` responds with 200."""

        def ready() -> bool:
            assert self._process
            assert self._process.poll() is None, f"ended with {self._process.returncode}: {self.log}"
            try:
                return httpx2.get(f"{self.url}/readyz", timeout=5).status_code == 200
            except httpx2.TransportError:
                return False

        wait_for(ready, seconds)

    def processes(self) -> list[int]:
        """Return the ids of this server's live processes: all in the sessions of the started processes.

        A process with the state of a zombie lives, and keeps its sockets, until its last thread has ended.
        """
        pids = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                state, leader, threads = fields[0], int(fields[3]), int(fields[17])
                if leader in self._leaders and (state != "Z" or threads > 1):
                    pids.append(int(stat.parent.name))
        return pids

    def wait(self, seconds: float = 30) -> int:
        """Return the exit status of the process that was started."""
        assert self._process
        return self._process.wait(seconds)

    def terminate(self, seconds: float = 30) -> int:
        """Send SIGTERM, as a service manager does, and return the exit status."""
        assert self._process
        self._process.terminate()
        return self.wait(seconds)

    def kill(self) -> None:
        """Send SIGKILL to the process that was started, and to it alone."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def kill_all(self) -> None:
        """Send SIGKILL to every process at once, as when the machine loses power."""
        while living := self.processes():
            for pid in living:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self._process:
            self._process.wait()
        self._leaders.clear()

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.kill_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self.kill_all()


class ExecutedServer(ServerProcess):
    """A server that is executed as a program, not forked."""

    forked = False
