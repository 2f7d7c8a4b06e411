"""The processes of `tiles serve`: a process that ends is restarted alone, and the others continue."""

import os
import re
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from peers import MailServer, wait_for
from served_requests import register, send_through
from server_process import ServerProcess

pytestmark = pytest.mark.long


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def worker_of(server: ServerProcess) -> int | None:
    """Return the worker: the child of the supervisor that has no child."""
    processes = server.processes()
    parents = {parent_of(pid) for pid in processes}
    children = [pid for pid in processes if parent_of(pid) == server.pid and pid not in parents]
    return children[0] if len(children) == 1 else None


def serving(server: ServerProcess) -> set[int]:
    """Return the server processes: they are not children of the supervisor."""
    return {pid for pid in server.processes() if pid != server.pid and parent_of(pid) != server.pid}


def with_handlers(server: ServerProcess) -> set[int]:
    """Return the processes, once each has set its handlers of signals, as the worker does after it was forked."""
    one = 1 << (signal.SIGUSR1 - 1)

    def has_them(pid: int) -> bool:
        masks = re.findall(r"Sig(?:Ign|Cgt):\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
        return any(int(mask, 16) & one for mask in masks)

    return wait_for(lambda: all(map(has_them, server.processes())) and set(server.processes()))


@contextmanager
def asking(server: ServerProcess) -> Iterator[list[str]]:
    """Send one request after the other, each on its own connection, and collect those that got no response."""
    over, failed, statuses = threading.Event(), list[str](), list[int]()

    def ask() -> None:
        while not over.wait(0.01):
            try:
                statuses.append(httpx2.get(f"{server.url}/v1/account", timeout=5).status_code)
            except httpx2.TransportError as error:
                failed.append(repr(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield failed
    finally:
        over.set()
        thread.join()
    assert set(statuses) == {401}
    assert len(statuses) > 20


def test_one_worker_sends_each_email_once_for_all_processes_of_a_server(
    tmp_path: Path, mail_server: MailServer
) -> None:
    addresses = [f"person{number}@example.org" for number in range(40)]
    with ServerProcess(tmp_path, "--workers", "3", **send_through(mail_server)) as server:
        wait_for(lambda: len(serving(server)) == 3 and worker_of(server))
        # The supervisor, the worker, and for each process that answers granian's own.
        assert len(server.processes()) == 1 + 1 + 2 * 3
        for address in addresses:
            register(server.url, address)
        wait_for(lambda: len(mail_server.messages) >= len(addresses))
    assert sorted(message["To"] for message in mail_server.messages) == sorted(addresses)


def test_a_worker_that_dies_again_and_again_is_started_again_while_every_request_is_answered(
    tmp_path: Path, mail_server: MailServer
) -> None:
    with ServerProcess(tmp_path, **send_through(mail_server)) as server:
        workers, pauses = [wait_for(lambda: worker_of(server))], []
        with asking(server) as failed:
            for _ in range(3):
                begun = time.monotonic()
                os.kill(workers[-1], signal.SIGKILL)
                workers.append(wait_for(lambda: worker_of(server) not in {None, *workers} and worker_of(server)))
                pauses.append(time.monotonic() - begun)
            register(server.url, "ada@example.org")
            wait_for(lambda: mail_server.messages)
        assert failed == []
        planned = re.findall(r"worker has ended .*: starting it again in ([\d.]+) s", server.log)
    assert planned == ["0.5", "1.0", "2.0"]
    assert all(pause > float(least) for pause, least in zip(pauses, planned, strict=True))


def test_a_process_that_dies_five_times_in_a_row_does_not_end_the_others(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, "--workers", "2", rate_limits="off") as server:
        wait_for(lambda: len(serving(server)) == 2)
        spared, worker = min(serving(server)), wait_for(lambda: worker_of(server))
        for _ in range(5):
            (victim,) = wait_for(lambda: serving(server) - {spared})
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda victim=victim: victim not in server.processes())
            for _ in range(20):
                assert httpx2.get(f"{server.url}/healthz").status_code == 200
        assert {spared, worker, server.pid} <= set(server.processes())
        wait_for(lambda: len(serving(server)) == 2)


# Signals


def test_a_signal_ends_a_child_in_good_order_and_it_is_started_again_or_does_nothing(
    tmp_path: Path, mail_server: MailServer
) -> None:
    with ServerProcess(tmp_path, **send_through(mail_server)) as server:
        wait_for(lambda: worker_of(server) and len(serving(server)) == 1)
        before = with_handlers(server)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            for pid in before:
                os.kill(pid, number)
        time.sleep(0.5)
        assert set(server.processes()) == before
        for number in (signal.SIGHUP, signal.SIGQUIT):
            (answering,) = serving(server)
            for pid in (answering, parent_of(answering), wait_for(lambda: worker_of(server))):
                os.kill(pid, number)
            wait_for(lambda before=before: len(set(server.processes()) - before) >= 2)
            wait_for(lambda: worker_of(server) and len(serving(server)) == 1)
            server.wait_until_ready()
            before = with_handlers(server)
        register(server.url, "ada@example.org")
        wait_for(lambda: mail_server.messages)
        assert "Traceback" not in server.log


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_the_service_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    with ServerProcess(tmp_path) as server:
        os.kill(server.pid, number)
        assert server.wait(20) == 0
        assert server.processes() == []


def test_a_service_that_nohup_started_outlives_its_terminal(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    server._command = ["nohup", *server._command]  # noqa: SLF001
    with server:
        os.killpg(server.pid, signal.SIGHUP)
        time.sleep(0.5)
        server.wait_until_ready()
        assert server.terminate() == 0


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_no_process_leaves_a_core_though_the_shell_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.chdir(tmp_path)
    server = ServerProcess(tmp_path)
    # Only root may raise the hard limit.
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    server._command = ["sh", "-c", f'ulimit -c {"unlimited" if most < 0 else most}; exec "$@"', "sh", *server._command]  # noqa: SLF001
    with server:
        wait_for(lambda: worker_of(server))
        processes = server.processes()
        for pid in processes:
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert [line.split()[4:6] for line in limits.splitlines() if "core file" in line] == [["0", "0"]]
            # A core that the kernel pipes to a program is empty.
            assert int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16) == 0
        for pid in sorted(processes, reverse=True):
            os.kill(pid, number)
        wait_for(lambda: not set(processes) & set(server.processes()))
    assert [path.name for path in tmp_path.rglob("*core*")] == []
