"""The processes of `tiles serve`: each that ends is started again alone, and everybody else goes on."""

import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from support import MailServer, ServerProcess, wait_for

NEVER_LATER = 30


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def worker_of(server: ServerProcess) -> int | None:
    """Return the worker: of the children of the process that was started, the one that has none itself."""
    processes = server.processes()
    parents = {parent_of(pid) for pid in processes}
    found = [pid for pid in processes if parent_of(pid) == server.pid and pid not in parents]
    return found[0] if len(found) == 1 else None


def serving(server: ServerProcess) -> set[int]:
    """Return the processes that answer: those whose parent is not the process that was started."""
    return {pid for pid in server.processes() if pid != server.pid and parent_of(pid) != server.pid}


def send_through(server: MailServer) -> dict[str, object]:
    return {"mail_server": server.host, "mail_port": server.port, "rate_limits": "off"}


class Asking(threading.Thread):
    """Asks one question after the other, each on a connection of its own, and collects what was not answered."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url, self._over = url, threading.Event()
        self.answered, self.failed = 0, list[str]()

    def run(self) -> None:
        while not self._over.wait(0.01):
            try:
                assert httpx2.get(f"{self._url}/v1/account", timeout=5).status_code == 401
                self.answered += 1
            except (httpx2.TransportError, AssertionError) as error:
                self.failed.append(repr(error))

    def stop(self) -> None:
        self._over.set()
        self.join()


@contextmanager
def asking(server: ServerProcess) -> Iterator[Asking]:
    asked = Asking(server.url)
    asked.start()
    try:
        yield asked
    finally:
        asked.stop()


def test_one_worker_sends_for_all_processes_of_a_server(tmp_path: Path, mail_server: MailServer) -> None:
    with ServerProcess(tmp_path, "--workers", "3", **send_through(mail_server)) as server:
        wait_for(lambda: len(serving(server)) == 3 and worker_of(server))
        # What started them, the worker, and each process that answers with the HTTP server's own.
        assert len(server.processes()) == 1 + 1 + 2 * 3


def test_a_worker_that_dies_again_and_again_is_started_again_while_every_request_is_answered(
    tmp_path: Path, mail_server: MailServer
) -> None:
    with ServerProcess(tmp_path, **send_through(mail_server)) as server, asking(server) as asked:
        seen = set()
        for _ in range(3):
            worker = wait_for(lambda: worker_of(server))
            seen.add(worker)
            os.kill(worker, signal.SIGKILL)
            wait_for(lambda worker=worker: worker not in server.processes())
        person = {"name": "Ada Lovelace", "email": "ada@example.org"}
        assert httpx2.post(f"{server.url}/v1/registrations", json=person).status_code == 202
        wait_for(lambda: mail_server.messages)
        assert len(seen) == 3
        asked.stop()
        assert (asked.failed, asked.answered > 20) == ([], True)
        assert server.log.count("worker has ended") == 3


def test_the_pauses_before_a_worker_is_started_again_grow(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        pauses = []
        for _ in range(3):
            worker = wait_for(lambda: worker_of(server))
            begun = time.monotonic()
            os.kill(worker, signal.SIGKILL)
            wait_for(lambda worker=worker: worker_of(server) not in {None, worker})
            pauses.append(time.monotonic() - begun)
        assert pauses == sorted(pauses)
        assert pauses[2] > 2 > pauses[0]


def test_a_process_that_dies_five_times_in_a_row_does_not_end_the_others(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--workers", "2", rate_limits="off") as server:
        wait_for(lambda: len(serving(server)) == 2)
        spared = min(serving(server))
        worker = worker_of(server)
        for _ in range(4):
            (victim,) = wait_for(lambda: serving(server) - {spared})
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda victim=victim: victim not in server.processes())
            for _ in range(20):
                assert httpx2.get(f"{server.url}/healthz").status_code == 200
        (victim,) = wait_for(lambda: serving(server) - {spared}, NEVER_LATER)
        os.kill(victim, signal.SIGKILL)
        assert {spared, worker, server.pid} <= set(server.processes())
        wait_for(lambda: len(serving(server)) == 2, NEVER_LATER)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize("whom", ["the one that was started", "a server", "a server's parent", "the worker"])
def test_a_signal_ends_a_service_in_good_order_or_does_nothing(
    tmp_path: Path, mail_server: MailServer, number: signal.Signals, whom: str
) -> None:
    with ServerProcess(tmp_path, **send_through(mail_server)) as server:
        worker = wait_for(lambda: worker_of(server))
        (answering,) = wait_for(lambda: serving(server))
        pids = {"the one that was started": server.pid, "a server": answering, "a server's parent":
                parent_of(answering), "the worker": worker}  # fmt: skip
        # As soon as it answers it has its handlers; the worker has them a moment later.
        time.sleep(0.5)
        os.kill(pids[whom], number)
        if whom == "the one that was started" and number in {signal.SIGHUP, signal.SIGQUIT}:
            assert server.wait(20) == 0
            assert server.processes() == []
            return
        time.sleep(1)
        server.wait_until_ready()
        person = {"name": "Ada Lovelace", "email": "ada@example.org"}
        assert httpx2.post(f"{server.url}/v1/registrations", json=person).status_code == 202
        wait_for(lambda: mail_server.messages)
        assert len(serving(server)) == 1
        assert "Traceback" not in server.log


def test_a_service_that_nohup_started_outlives_its_terminal(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    server._command = ["nohup", *server._command]  # noqa: SLF001
    with server:
        os.killpg(server.pid, signal.SIGHUP)
        time.sleep(1)
        server.wait_until_ready()
        assert server.terminate() == 0


# Cores


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_no_process_leaves_a_core_though_the_shell_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.chdir(tmp_path)
    server = ServerProcess(tmp_path)
    # The limit above is nobody's but root's to raise.
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    server._command = ["sh", "-c", f'ulimit -c {"unlimited" if most < 0 else most}; exec "$@"', "sh", *server._command]  # noqa: SLF001
    with server:
        wait_for(lambda: worker_of(server))
        for pid in server.processes():
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert [line.split()[4:6] for line in limits.splitlines() if "core file" in line] == [["0", "0"]]
            # What the kernel gives to a program instead is empty.
            assert int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16) == 0
        processes = server.processes()
        for pid in sorted(processes, reverse=True):
            os.kill(pid, number)
        wait_for(lambda: not set(processes) & set(server.processes()))
    assert [path.name for path in tmp_path.rglob("*core*")] == []
