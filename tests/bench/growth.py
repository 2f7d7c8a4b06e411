"""What grows with the service: requests, the desk's pages, the worker's round and the start, beside an empty service's.

Both services run at once and get each request in turn. Their mail server is away, so that emails wait. Hashes are
cheap, because expensive ones would hide the database.
"""

import json
import re
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Any

from bench.figures import Figure, Options
from bench.filling import fill, steps
from bench.requests import Line, form, get, send
from bench.stage import CHEAP_ARGON2, EMAIL, Stage, stage
from peers import free_port
from server_process import ServerProcess
from sqlalchemy import select
from support import OTHER_PASSWORD, PASSWORD

from backend.commands.console import progress
from backend.database import scrub
from backend.database.desk_tables import Manager
from backend.database.engine import AnyRow, reading
from backend.database.models import Account, Mail, PreviousAddress
from backend.desk import managers
from backend.mail import delivery
from backend.privacy import erasure
from backend.security import tokens
from backend.security.tokens import Purpose
from backend.serving import worker

BAR, REPEATS, STARTS, ROUND = 1.5, 15, 3, 400
MARY = "mary@example.org"
GOT = ("/healthz", "/readyz", "/metrics", "/v1/policy", "/openapi.json", "/", "/privacy", "/privacy/2026-01", "/docs",
       "/problems", "/registration", "/password-reset", "/erasure", "/.well-known/security.txt")  # fmt: skip
DESK = ("", "/requests/done", "/requests/new", "/feedback", "/feedback?state=done", "/policies", "/announcements",
        "/announcements/new", "/audit", "/sessions", "/people")  # fmt: skip
SEARCHES = {"address": EMAIL, "name": "ada lovelace", "beginning": "ada", "one letter": "a", "middle": "da@exam",
            "nothing": "zzqqzz"}  # fmt: skip
Journey = Generator[tuple[str, bytes], bytes, None]
Times = dict[str, dict[str, list[float]]]


class Visitor:
    """Somebody who uses one service: a connection, Ada's session, and a data manager's sign-in."""

    def __init__(self, on: Stage, line: Line, session: str) -> None:
        """Sign the data manager in."""
        self.stage, self.line, self.session = on, line, session
        with on.app.app_context():
            managers.invite(MARY, "Mary Somerville")
            token = tokens.issue_for_manager(self._row(select(Manager.id, Manager.email, Manager.sign_in_id)))
            self.ada = self._row(select(Account.id).where(Account.is_open_with(EMAIL))).id
        response = line.ask(form("/desk/sign-in/confirm", "", token=token))[1]
        self.cookie = re.findall(rb"(?i)set-cookie: ([^;]+)", response)[0].decode()
        page = line.ask(get("/desk/sessions", Cookie=self.cookie))[1].decode()
        self.form_token = re.findall(r'name="form_token" value="(\w+)"', page)[0]

    @staticmethod
    def _row(query: Any) -> AnyRow:  # noqa: ANN401 - any columns
        with reading() as session:
            return session.execute(query).first()

    def link(self, purpose: Purpose, account_id: str, **content: str) -> str:
        """Return the token of a link that would be emailed to an account."""
        columns = Account.id, Account.email, Account.closed_at, Account.credentials_id
        with self.stage.app.app_context():
            account = self._row(select(*columns).where(Account.id == uuid.UUID(account_id)))
            return tokens.issue_for(purpose, account, **content)

    def registration(self, account_id: str, email: str) -> str:
        """Return the token of a registration's link."""
        with self.stage.app.app_context():
            return tokens.issue(Purpose.REGISTRATION, {"account": account_id, "name": "Eve", "email": email})

    def change(self, account_id: str) -> str:
        """Return the id of an email change."""
        query = select(PreviousAddress.id).where(PreviousAddress.account_id == uuid.UUID(account_id))
        with self.stage.app.app_context():
            return str(self._row(query).id)


def journey(visitor: Visitor) -> Journey:
    """Yield a name and a request for everything that the API, the pages and the desk do; take each response."""
    for path in GOT:
        yield f"GET {path}", get(path)
    yield from _life(visitor)
    for path in (*DESK, f"/people/{visitor.ada}", f"/people/{visitor.ada}/print", f"/people/{visitor.ada}/close"):
        yield f"GET /desk{path.replace(str(visitor.ada), 'ID')}", get(f"/desk{path}", Cookie=visitor.cookie)
    for name, words in SEARCHES.items():
        yield (
            f"the desk's search: {name}",
            form("/desk/people", visitor.cookie, form_token=visitor.form_token, text=words),
        )


def _life(visitor: Visitor) -> Journey:
    """Yield the requests of a person, from the registration to the erasure."""
    account, email = str(uuid.uuid4()), f"eve{uuid.uuid4().hex}@example.org"
    new, password = f"new-{email}", {"password": PASSWORD}
    yield _post("/v1/registrations", name="Eve", email=email)
    token = visitor.registration(account, email)
    yield "POST /registration/look", form("/registration/look", "", token=token)
    response = yield _post("/v1/registrations/confirm", token=token, **password)
    session = _session_of(response)
    yield _post("/v1/feedback", message="More tiles, please.")
    yield _post("/v1/feedback", session, message="More tiles, please.")
    yield _signed("GET", "/v1/account", session)
    yield _signed("PATCH", "/v1/account", session, email_updates=False)
    yield _signed("DELETE", "/v1/account/name", session)
    yield _signed("GET", "/v1/account/export", session)
    yield _signed("PUT", "/v1/account/password", session, current_password=PASSWORD, new_password=OTHER_PASSWORD)
    yield _post("/v1/password-resets", email=email)
    yield _post("/v1/password-resets/confirm", token=visitor.link(Purpose.PASSWORD_RESET, account), **password)
    session = _session_of((yield _post("/v1/sessions", email=email, **password)))
    yield _signed("GET", "/v1/sessions", session)
    yield _post("/v1/account/email-changes", session, email=new, **password)
    yield _post("/v1/email-changes/confirm", token=visitor.link(Purpose.EMAIL_CHANGE, account, email=new))
    undo = visitor.link(Purpose.EMAIL_CHANGE_UNDO, account, change=visitor.change(account))
    yield _post("/v1/email-changes/undo", token=undo)
    reset = visitor.link(Purpose.PASSWORD_RESET, account)
    yield "another reset", _post("/v1/password-resets/confirm", token=reset, **password)[1]
    session = _session_of((yield "another sign-in", _post("/v1/sessions", email=email, **password)[1]))
    yield _post("/v1/account/close", session, erase=True, **password)
    yield _post("/v1/erasure-requests/cancel", token=visitor.link(Purpose.ERASURE_CANCEL, account))
    yield _post("/v1/erasure-requests", email=email)
    yield _post("/v1/erasure-requests/confirm", token=visitor.link(Purpose.ERASURE, account))
    session = _session_of((yield "a sign-in of Ada", _post("/v1/sessions", email=EMAIL, **password)[1]))
    yield _signed("DELETE", "/v1/sessions/current", session)


def _post(path: str, session: str = "", **body: object) -> tuple[str, bytes]:
    headers = {"Authorization": f"Bearer {session}"} if session else {}
    return f"POST {path}{', signed in' if session else ''}", send("POST", path, json.dumps(body), **headers)


def _signed(method: str, path: str, session: str, **body: object) -> tuple[str, bytes]:
    text = json.dumps(body) if body else ""
    return f"{method} {path}", send(method, path, text, Authorization=f"Bearer {session}")


def _session_of(response: bytes) -> str:
    token: str = json.loads(response.partition(b"\r\n\r\n")[2])["session"]["token"]
    return token


def measure(options: Options) -> Iterator[Figure]:
    """Measure on each kind of database."""
    for kind in options.databases:
        for name, times in _measured(kind, options.accounts):
            grown, empty = median(times["grown"]), median(times["empty"])
            yield Figure(name=f"{kind}: {name}", value=grown, unit="ms", beside="empty", beside_value=empty,
                         ratio=grown / empty, bar=BAR, at_most=True)  # fmt: skip


def _measured(kind: str, accounts: int) -> Iterator[tuple[str, dict[str, list[float]]]]:
    with ExitStack() as held:
        stages = {name: held.enter_context(stage(kind, **CHEAP_ARGON2)) for name in ("empty", "grown")}
        sessions = {name: on.have_ada() for name, on in stages.items()}
        with progress(steps(accounts), f"{accounts:,} accounts, {kind}") as bar:
            fill(stages["grown"], accounts, lambda: bar.update(1))
        yield from _requests(stages, sessions).items()
        yield from _rounds(stages)
        yield "start to ready", _in_turn(stages, STARTS, _start)


@contextmanager
def _visitors(stages: dict[str, Stage], sessions: dict[str, str]) -> Iterator[dict[str, Visitor]]:
    with ExitStack() as held:
        lines = {name: held.enter_context(Line(held.enter_context(_server(on)).url)) for name, on in stages.items()}
        yield {name: Visitor(on, lines[name], sessions[name]) for name, on in stages.items()}


def _server(on: Stage) -> ServerProcess:
    """Return a server whose mail server is away."""
    return ServerProcess(on.folder, **{**on.settings, "mail_port": free_port()})


def _requests(stages: dict[str, Stage], sessions: dict[str, str]) -> Times:
    times: Times = defaultdict(lambda: defaultdict(list))
    with _visitors(stages, sessions) as visitors, progress(REPEATS + 1, "Requests") as bar:
        for repeat in range(REPEATS + 1):
            journeys = {name: journey(visitor) for name, visitor in visitors.items()}
            present = {name: next(going) for name, going in journeys.items()}
            while present:
                for name in sorted(present, reverse=bool(repeat % 2)):
                    operation, request = present.pop(name)
                    nanoseconds, response = visitors[name].line.ask(request)
                    assert response[9:10] == b"2", (operation, response)
                    if repeat:  # The first one fills caches.
                        times[operation][name].append(nanoseconds / 1e6)
                    present |= _next(name, journeys[name], response)
            bar.update(1)
    return times


def _next(name: str, going: Journey, response: bytes) -> dict[str, tuple[str, bytes]]:
    try:
        return {name: going.send(response)}
    except StopIteration:
        return {}


def _rounds(stages: dict[str, Stage]) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Time each job of the worker."""
    jobs: dict[str, Callable[[], object]] = {
        f"sending {ROUND} emails to nobody": delivery.deliver,
        "looking for accounts to erase": erasure.erase_due,
        "tidying up": lambda: list(worker.tidy()),
        "scrubbing": lambda: scrub.scrub(Mail),
    }
    for name, job in jobs.items():
        yield f"the worker: {name}", _in_turn(stages, STARTS, partial(_run, job))


def _run(job: Callable[[], object], on: Stage) -> float:
    if job is delivery.deliver:
        on.enqueue(ROUND, kind="password_reset", email="nobody@example.org")
    with on.app.app_context():
        begun = time.perf_counter()
        job()
        return (time.perf_counter() - begun) * 1000


def _start(on: Stage) -> float:
    begun = time.perf_counter()
    with _server(on):
        return (time.perf_counter() - begun) * 1000


def _in_turn(stages: dict[str, Stage], repeats: int, run: Callable[[Stage], float]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(repeats):
        for name, on in stages.items():
            times[name].append(run(on))
    return times
