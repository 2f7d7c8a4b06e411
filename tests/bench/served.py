"""Figures of a running server: requests of sixteen connections, beside what the machine and a peer do meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from figures import Figure, against, in_rounds
from floods import crowded, prepare
from machine import BARE, COMMITS, CONNECTIONS, HASHES, Limits, bare_server, environment_of, wide_server
from measure import Load, get, load, post
from pocketbase import PocketBase, pocketbase
from stage import Stage, stage
from support import PASSWORD

EMAIL, NOBODY = "ada@example.org", "nobody@example.org"
OF_LIMIT, OF_HASHES, OF_PEER, TWICE = 0.8, 0.95, 3.0, 2.0
# Requests a second: better-auth 1.7, the fastest of six services where a reset is asked for (16 connections, SQLite).
BEST_PEER, BEST_RESET = "best peer's reset", 1508.0
LINKS = 200
CREATED, UNAUTHORIZED = 201, 401


@dataclass(frozen=True)
class Served:
    """A server with a process for each core, somebody who is signed in, a peer beside it, and how to measure."""

    stage: Stage
    url: str
    session: str
    limits: Limits
    peer: PocketBase
    rounds: int
    seconds: float

    def load(self, *requests: bytes, refused: bool = False) -> Load:
        """Ask again and again; then let go of the mails that came of it, as no figure is to pay for another's."""
        found = load(self.url, *requests, connections=CONNECTIONS, seconds=self.seconds, refused=refused)
        self.stage.forget_mails()
        return found

    def load_peer(self, *requests: bytes, share: float = 1.0) -> Load:
        """Ask the peer again and again; `share` is what one request is of the whole job."""
        found = load(self.peer.url, *requests, connections=CONNECTIONS, seconds=self.seconds)
        return replace(found, per_second=found.per_second * share)


@contextmanager
def served(kind: str, rounds: int, seconds: float) -> Iterator[Served]:
    """Start all that figures of a running server need, on one kind of database."""
    with ExitStack() as held:
        found = held.enter_context(stage(kind))
        session = prepare(found)
        server = held.enter_context(found.server(wide_server))
        bare = {name: held.enter_context(bare_server(server, name)) for name in ("rsgi", "wsgi")}
        folder = found.folder / "peer"
        folder.mkdir()
        peer = held.enter_context(pocketbase(Path(folder), int(str(found.settings["mail_port"]))))
        limits = Limits(found, environment_of(server), bare, seconds)
        yield Served(found, server.url, session, limits, peer, rounds, seconds)


def asked(described: str, path: str, email: str, **rest: str) -> Callable[[Served], list[Figure]]:
    """Return what measures a request for a mail."""

    def measure(on: Served) -> list[Figure]:
        request = post(path, email=email, **rest)
        limits = {COMMITS: on.limits.commits, BARE: on.limits.bare}
        found = in_rounds(on.rounds, lambda: on.load(request), limits)
        return [found.figure(described, OF_LIMIT), against(described, found.own, BEST_PEER, BEST_RESET, OF_PEER)]

    return measure


def signed_in(name: str, email: str, password: str, *, refused: bool) -> Callable[[Served], list[Figure]]:
    """Return what measures signing in."""

    def measure(on: Served) -> list[Figure]:
        request = post("/v1/sessions", email=email, password=password)
        found = in_rounds(on.rounds, lambda: on.load(request, refused=refused), {HASHES: on.limits.hashes})
        return [found.figure(name, OF_HASHES)]

    return measure


def account(on: Served) -> list[Figure]:
    """Measure reading one's own account, beside the peer's and beside a route that does nothing."""
    request = get("/v1/account", Authorization=f"Bearer {on.session}")
    limits = {"PocketBase": lambda: on.load_peer(on.peer.account()), BARE: on.limits.bare}
    found = in_rounds(on.rounds, lambda: on.load(request), limits)
    return [replace(found, limits={name: found.limits[name]}).figure("own account", bar)
            for name, bar in (("PocketBase", 1.0), (BARE, None))]  # fmt: skip


def feedback(name: str, *, with_session: bool) -> Callable[[Served], list[Figure]]:
    """Return what measures sending feedback."""

    def measure(on: Served) -> list[Figure]:
        request = post("/v1/feedback", message="The plan of the interview is what I needed.")
        if with_session:
            request = request.replace(b"\r\n", f"\r\nAuthorization: Bearer {on.session}\r\n".encode(), 1)
        found = in_rounds(on.rounds, lambda: on.load(request), {COMMITS: on.limits.commits})
        return [found.figure(name, OF_LIMIT)]

    return measure


def flooded(on: Served) -> list[Figure]:
    """Measure what sixteen others wait for while sixty-four connections sign in, beside what they usually do."""
    rounds = [crowded(on.stage, on.session, "sign-ins", on.seconds) for _ in range(on.rounds)]
    return [_flooded(rows) for rows in zip(*rounds, strict=True)]


def _flooded(rows: Sequence[dict[str, Any]]) -> Figure:
    series = tuple((row["p99"], row["usual p99"]) for row in rows)
    own, usual = (median(column) for column in zip(*series, strict=True))
    return Figure(
        f"{rows[0]['sixteen ask']}: p99 in a flood of sign-ins", own, "ms", "without the flood", usual,
        median(one / other for one, other in series), TWICE, at_most=True, p50=median(row["p50"] for row in rows),
        p99=own, errors=sum(row["errors"] for row in rows), series=series,
    )  # fmt: skip


def peers(on: Served) -> list[Figure]:
    """Measure what PocketBase does with the same jobs, in turns with the service."""
    message = post("/v1/feedback", message="The plan of the interview is what I needed.")
    jobs = {
        "register": (post("/v1/registrations", name="Ada Lovelace", email=NOBODY), on.peer.registrations, 0.5),
        "reset, known": (post("/v1/password-resets", email=EMAIL), lambda: on.peer.resets(known=True), 1.0),
        "reset, unknown": (post("/v1/password-resets", email=NOBODY), lambda: on.peer.resets(known=False), 1.0),
        "sign in, right": (post("/v1/sessions", email=EMAIL, password=PASSWORD), lambda: [on.peer.sign_in()], 1.0),
        "store one record (feedback)": (message, lambda: [on.peer.store()], 1.0),
    }
    found = []
    for name, (request, asking, share) in jobs.items():
        peer = {"PocketBase": lambda asking=asking, share=share: on.load_peer(*asking(), share=share)}
        found.append(in_rounds(on.rounds, lambda request=request: on.load(request), peer).figure(name, None))
    return found


JOBS: dict[str, Callable[[Served], list[Figure]]] = {
    "register": asked("register", "/v1/registrations", NOBODY, name="Ada Lovelace"),
    "reset known": asked("reset, known", "/v1/password-resets", EMAIL),
    "reset unknown": asked("reset, unknown", "/v1/password-resets", NOBODY),
    "erasure known": asked("erasure request, known", "/v1/erasure-requests", EMAIL),
    "erasure unknown": asked("erasure request, unknown", "/v1/erasure-requests", NOBODY),
    "sign-in right": signed_in("sign in, right", EMAIL, PASSWORD, refused=False),
    "sign-in wrong": signed_in("sign in, wrong", EMAIL, "a wrong but long password", refused=True),
    "sign-in unknown": signed_in("sign in, unknown", NOBODY, PASSWORD, refused=True),
    "account": account,
    "feedback": feedback("feedback", with_session=False),
    "feedback signed in": feedback("feedback, signed in", with_session=True),
    "peer": peers,
    "flood": flooded,
}
