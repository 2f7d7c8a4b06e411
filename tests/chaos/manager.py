"""A service manager for chaos: it starts a process again when it has ended."""

import subprocess
import threading

from forking import TILES
from peers import wait_for
from server_process import ServerProcess, catches_term


class MailWork:
    """`tiles mail work`, a process that only sends."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._variables = variables
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([TILES, "mail", "work"], env=self._variables, stderr=subprocess.DEVNULL)

    def wait_until_ready(self) -> None:
        """Wait until it handles SIGTERM: it prints nothing at its start."""
        wait_for(lambda: catches_term(self.process.pid))

    def kill_all(self) -> None:
        self.process.kill()
        self.process.wait()


class Manager(threading.Thread):
    """Restarts ended processes after killing their children, as systemd does."""

    def __init__(self, restart_seconds: float) -> None:
        super().__init__(daemon=True)
        self.stop, self._pause = threading.Event(), restart_seconds
        self.runs: list[ServerProcess | MailWork] = []

    def run(self) -> None:
        while not self.stop.wait(0.05):
            for run in self.runs:
                process = run.process if isinstance(run, MailWork) else run._process  # noqa: SLF001
                if process and process.poll() is not None:
                    run.kill_all()
                    if not self.stop.wait(self._pause):
                        run.start()
