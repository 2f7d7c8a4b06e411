"""The service beside PocketBase, at equal durability and at its default, and beside what the machine can do.

Requests per processor second count every process of a service, until the last email has left.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from bench.figures import Figure, Measure, Options, beside, in_rounds
from bench.filling import ACCOUNTS, fill
from bench.pocketbase import PEOPLE, PocketBase, pocketbase
from bench.raw import Job, raw
from bench.requests import CONNECTIONS, Line, Target, get, post
from bench.stage import CORES, EMAIL, HASH, NOBODY, Stage, stage
from support import PASSWORD

EQUAL, DEFAULT = "PocketBase, equally durable", "PocketBase, its default"
COMMITS, HASHES = "durable commits", "raw Argon2id"
REFUSED = {"sign in, wrong", "sign in, unknown"}
# An operation takes so many requests of PocketBase.
SHARES = {"register": 0.5}
BARS = {"own account": 1.2, "sign in, right": 4.0, "sign in, wrong": 4.0, "sign in, unknown": 4.0}
LIMITS = {"register": COMMITS, "reset, known": COMMITS, "store one record": COMMITS, "sign in, right": HASHES}
FLUSHED = 100


def requests(session: str) -> dict[str, bytes]:
    """Return one request for each operation that PocketBase has too."""
    return {
        "register": post("/v1/registrations", name="Ada Lovelace", email=NOBODY),
        "reset, known": post("/v1/password-resets", email=EMAIL),
        "reset, unknown": post("/v1/password-resets", email=NOBODY),
        "sign in, right": post("/v1/sessions", email=EMAIL, password=PASSWORD),
        "sign in, wrong": post("/v1/sessions", email=EMAIL, password="a wrong but long password"),
        "sign in, unknown": post("/v1/sessions", email=NOBODY, password=PASSWORD),
        "own account": get("/v1/account", Authorization=f"Bearer {session}"),
        "store one record": post("/v1/feedback", message="The interview plan is what I needed."),
    }


def measure(options: Options) -> Iterator[Figure]:
    """Measure each operation on a server with a process for each core, and on both of the peer's kinds."""
    with ExitStack() as held:
        on = held.enter_context(stage())
        session = on.have_ada()
        fill(on, PEOPLE, lambda: None, (ACCOUNTS,))
        own = on.target(held.enter_context(on.server(CORES)))
        port = int(str(on.settings["mail_port"]))
        peers = {
            name: held.enter_context(pocketbase(on.folder / name, port, is_durable=name == EQUAL))
            for name in (EQUAL, DEFAULT)
        }
        yield from _flushes(own, requests(session)["store one record"], peers)
        for name, request in requests(session).items():
            yield from _compare(options, name, partial(own.load, request), peers, on)


def _compare(
    options: Options, name: str, own: Callable[..., object], peers: dict[str, PocketBase], on: Stage
) -> Iterator[Figure]:
    how = {"seconds": options.seconds, "refused": name in REFUSED}
    measures: dict[str, Measure] = {"TILES": partial(own, **how)}  # type: ignore[arg-type]
    measures |= {kind: partial(_load_peer, peer, name, **how) for kind, peer in peers.items()}
    if limit := LIMITS.get(name):
        measures[limit] = partial(_limit, limit, on, options.seconds)
    loads = in_rounds(options.rounds, measures)
    tiles = loads.pop("TILES")
    for other, beside_loads in loads.items():
        yield beside(name, tiles, other, beside_loads, bar=BARS.get(name, 1.0) if other == EQUAL else None)
    yield beside(name, tiles, EQUAL, loads[EQUAL], column="per_processor_second")


def _load_peer(peer: PocketBase, name: str, **how: object) -> object:
    peer.make_durable()
    return peer.target.load(*peer.requests()[name], share=SHARES.get(name, 1.0), **how)  # type: ignore[arg-type]


def _limit(limit: str, on: Stage, seconds: float) -> object:
    if limit == HASHES:
        return raw(Job("argon2", HASH, seconds), processes=CORES)
    job = Job("sqlite", str(on.folder / "limit.sqlite3"), seconds)
    return raw(job, processes=CORES, threads=CONNECTIONS // CORES)


def _flushes(own: Target, store: bytes, peers: dict[str, PocketBase]) -> Iterator[Figure]:
    """Count the flushes to the disk while records are stored one after the other, which shows who is durable."""
    yield _flushes_of("TILES", own, store)
    for name, peer in peers.items():
        peer.make_durable()
        yield _flushes_of(name, peer.target, peer.requests()["store one record"][0])


def _flushes_of(name: str, target: Target, store: bytes) -> Figure:
    if not (strace := shutil.which("strace")):
        raise SystemExit("strace is needed to count what is flushed to the disk: apt-get install -y strace")
    attached = [word for process in target.processes() for word in ("-p", str(process))]
    watch = [strace, "-f", "-qq", "-e", "trace=fsync,fdatasync", *attached]
    with subprocess.Popen(watch, stderr=subprocess.PIPE, text=True) as tracing, Line(target.url) as line:
        time.sleep(1)
        for _ in range(FLUSHED):
            line.ask(store)
        tracing.terminate()
        calls = [row for row in tracing.communicate()[1].splitlines() if "sync(" in row]
    bar = None if name == DEFAULT else 1.0
    return Figure(name=f"flushes for each record: {name}", value=len(calls) / FLUSHED, unit="", bar=bar)
