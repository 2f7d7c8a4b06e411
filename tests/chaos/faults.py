"""Every fault, caused for real."""

import os
import resource
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from chaos.manager import MailWork
from chaos.scene import Fault, Scene

from backend.mail.smtp import FINAL_REPLY_SECONDS
from backend.security import throttle

Does = Callable[[Scene], AbstractContextManager[object]]

SQLITE, POSTGRESQL = ("sqlite",), ("postgresql",)


@contextmanager
def kill_server(scene: Scene) -> Iterator[None]:
    scene.server.kill_all()
    yield


@contextmanager
def kill_one_process(scene: Scene) -> Iterator[None]:
    os.kill(max(set(scene.server.processes()) - {scene.server.pid}), signal.SIGKILL)
    yield


def _mail_work(scene: Scene) -> MailWork:
    (work,) = [run for run in scene.manager.runs if isinstance(run, MailWork)]
    return work


@contextmanager
def kill_mail_work(scene: Scene) -> Iterator[None]:
    _mail_work(scene).process.kill()
    yield


@contextmanager
def kill_both(scene: Scene) -> Iterator[None]:
    _mail_work(scene).process.kill()
    scene.server.kill_all()
    yield


def _told_to_stop(scene: Scene) -> None:
    """Stop the server as a service manager does, which would kill it after 30 seconds."""
    code = scene.server.terminate(30)
    assert code == 0, f"ended with {code}: {scene.server.log[-2000:]}"


@contextmanager
def terminate(scene: Scene) -> Iterator[None]:
    _told_to_stop(scene)
    yield


@contextmanager
def terminate_both(scene: Scene) -> Iterator[None]:
    sender = _mail_work(scene).process
    sender.terminate()
    _told_to_stop(scene)
    assert sender.wait(30) == 0
    yield


@contextmanager
def restart_postgres(scene: Scene) -> Iterator[None]:
    scene.postgres[0].stop()
    scene.postgres[0].start()
    yield


@contextmanager
def stop_postgres(scene: Scene) -> Iterator[None]:
    scene.postgres[0].stop("immediate")
    yield
    scene.postgres[0].start()


@contextmanager
def kill_postgres(scene: Scene) -> Iterator[None]:
    scene.postgres[0].signal(signal.SIGKILL)
    yield
    scene.postgres[0].start()


@contextmanager
def freeze_postgres(scene: Scene) -> Iterator[None]:
    scene.postgres[0].signal(signal.SIGSTOP)
    yield
    scene.postgres[0].signal(signal.SIGCONT)


@contextmanager
def lose_the_way(scene: Scene) -> Iterator[None]:
    scene.way.swallows = True
    yield
    scene.way.restore()


@contextmanager
def fail_over(scene: Scene) -> Iterator[None]:
    scene.postgres[0].signal(signal.SIGKILL)
    scene.postgres[1].promote()
    yield


@contextmanager
def stop_redis(scene: Scene) -> Iterator[None]:
    assert scene.redis
    scene.redis.stop()
    yield
    scene.redis.start()


def postbox(**wrong: object) -> Does:
    """Return a fault that sets attributes of the mail server, and resets them to None afterwards."""

    @contextmanager
    def be_wrong(scene: Scene) -> Iterator[None]:
        vars(scene.postbox).update(wrong)
        yield
        vars(scene.postbox).update(dict.fromkeys(wrong))

    return be_wrong


@contextmanager
def cut_data(scene: Scene) -> Iterator[None]:
    scene.mail_way.cut_after = 1500
    yield
    scene.mail_way.restore()
    # The server may have accepted the email: the worker waits before it sends it again.
    scene.move_clock(FINAL_REPLY_SECONDS + 1)


@contextmanager
def gone_before_its_answer(scene: Scene) -> Iterator[None]:
    scene.postbox.forgets = True
    yield
    scene.postbox.forgets = False
    scene.move_clock(FINAL_REPLY_SECONDS + 1)


@contextmanager
def mail_away_for_an_hour(scene: Scene) -> Iterator[None]:
    """Stop the mail server while emails wait, and move the service's clock by an hour."""
    scene.mail_way.close()
    time.sleep(0.5)
    scene.move_clock(3700)
    yield
    scene.mail_way.restore()


def jump(seconds: float) -> Does:
    """Return a fault that moves the clock."""

    @contextmanager
    def move(scene: Scene) -> Iterator[None]:
        scene.move_clock(seconds)
        yield

    return move


@contextmanager
def fill_the_disk(scene: Scene) -> Iterator[None]:
    """Fill the disk. A user who may not mount a small one keeps the server's files from growing instead."""
    ballast = scene.instance / "ballast"
    if scene.has_small_disk:
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    else:
        # Only the server itself has this limit.
        scene.ready = None
        _limit_files(scene, 100_000)
    yield
    ballast.unlink(missing_ok=True)
    _limit_files(scene, resource.RLIM_INFINITY)


def _limit_files(scene: Scene, size: int) -> None:
    for pid in scene.server.processes():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextmanager
def lock_sqlite(scene: Scene) -> Iterator[None]:
    other = sqlite3.connect(scene.instance / "tiles.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield
    other.execute("ROLLBACK")
    other.close()


# High limits: every request is counted and none is refused.
MANY = ",".join(f"{name}=1000000/hour" for name in throttle.LIMITS)

FAULTS = [
    Fault("server killed", kill_server, waits=True),
    Fault("one of two processes killed", kill_one_process, workers=2, waits=True),
    Fault("mail worker killed", kill_mail_work, needs={"mail work"}, waits=True),
    Fault("server and mail worker killed", kill_both, needs={"mail work"}, waits=True),
    Fault("server told to stop", terminate),
    Fault("server and mail worker told to stop", terminate_both, needs={"mail work"}),
    Fault("PostgreSQL restarted", restart_postgres, databases=POSTGRESQL, waits=True),
    Fault("PostgreSQL stopped at once", stop_postgres, 10, POSTGRESQL, ready=False, waits=True),
    Fault("PostgreSQL killed", kill_postgres, 10, POSTGRESQL, ready=False, waits=True),
    Fault("PostgreSQL frozen for a minute", freeze_postgres, 60, POSTGRESQL, ready=False),
    Fault("PostgreSQL out of reach for a minute", lose_the_way, 60, POSTGRESQL, ready=False, needs={"way"}, waits=True),
    Fault("failover to the standby", fail_over, databases=POSTGRESQL, needs={"standby", "mail work"}, waits=True),
    Fault("Redis gone", stop_redis, 10, ready=True, needs={"redis"}, workers=2, settings={"rate_limits": MANY}),
    Fault("mail server refuses for now", postbox(refuse="451 4.3.0 Try again later"), 5, ready=True),
    Fault("mail server refuses what it read", postbox(refuse_data="452 4.3.1 No space"), 5, ready=True),
    Fault("mail server refuses everybody for good", postbox(refuse="550 5.7.1 Not from you"), 5),
    Fault("mail server refuses some for good", postbox(refuses_for_good="0"), 5, ready=True),
    Fault("mail server hangs", postbox(hangs=True), 25, ready=True),
    Fault("mail server gone in the middle of DATA", cut_data, 5, ready=True),
    Fault("mail server gone before its answer", gone_before_its_answer, 5, ready=True),
    Fault("mail server away for an hour", mail_away_for_an_hour, 5, ready=False),
    Fault("disk full", fill_the_disk, 10, SQLITE, ready=False, needs={"small disk"}, waits=True),
    Fault("SQLite locked", lock_sqlite, 15, SQLITE),
    Fault("clock half an hour ahead", jump(1800), 3, ready=True),
    Fault("clock half an hour back", jump(-1800), 3, ready=True),
]
