"""Sessions: opened by whoever proved a password, good until they end or the password changes."""

import hashlib
import secrets
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Date,
    Insert,
    Select,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from backend import clock
from backend.config import settings
from backend.database import outbox
from backend.database.engine import AnyRow, changed, reading, transaction
from backend.database.models import Account, Policy, Session
from backend.database.prepared import PreparedRead
from backend.errors import NotFound, Unauthenticated

PREFIX = "tiles_"
TOKEN_BYTES = 32
# A few ten milliseconds' work.
LOOKED_AT, FORGOTTEN_AT_ONCE = 5_000, 500


TODAY = bindparam("today", type_=Date())


def account_columns(today: date | BindParameter[date] | None = None) -> tuple[Any, ...]:
    """Return what a request about an account may need of it, to be read in one statement.

    `TODAY` stands for the day in a statement that is kept.
    """
    day = clock.now().date() if today is None else today
    return (*_COLUMNS, Policy.in_force_on(day).label("current_policy"))


_COLUMNS = (
    Account.id,
    Account.name,
    Account.email,
    Account.email_updates,
    Account.accepted_policy,
    Account.created_at,
    Account.closed_at,
    Account.password_hash,
    Account.credentials_id,
)


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session at its beginning: the only moment at which its token is known."""

    token: str
    id: uuid.UUID
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who signed in, and the session that came of it."""

    account: AnyRow
    session: NewSession


@dataclass(frozen=True, slots=True)
class Viewer:
    """Whose request this is: an open account, and the session that says so."""

    account: AnyRow
    session_id: uuid.UUID


def _insertion() -> Insert:
    """Return what inserts a session, unless the account was closed or got another password since it was read."""
    values = {
        "id": bindparam("session_id", type_=Session.id.type),
        "account_id": Account.id,
        "token_sha256": bindparam("token_sha256", type_=Session.token_sha256.type),
        "credentials_id": Account.credentials_id,
        "created_at": bindparam("now", type_=Session.created_at.type),
        "last_used_on": bindparam("today", type_=Session.last_used_on.type),
    }
    still = (
        Account.id == bindparam("account_id"),
        Account.credentials_id == bindparam("credentials_id"),
        Account.closed_at.is_(None),
    )
    # Of the table and not of the class: given values, a session would take it for many rows to be inserted.
    return insert(cast(Table, Session.__table__)).from_select(list(values), select(*values.values()).where(*still))


_INSERTION = _insertion()


def _made(account: AnyRow, now: datetime) -> tuple[NewSession, dict[str, object]]:
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    new = NewSession(token, uuid.uuid4(), _expires_at(now, now.date()))
    return new, {
        "session_id": new.id, "token_sha256": _digest(token), "now": now, "today": now.date(),
        "account_id": account.id, "credentials_id": account.credentials_id,
    }  # fmt: skip


def begin(account: AnyRow, now: datetime) -> NewSession | None:
    """Insert a session in the caller's transaction, unless the account was closed or got another password meanwhile."""
    new, values = _made(account, now)
    return new if changed(_INSERTION, **values) else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _expires_at(created_at: datetime, last_used_on: date) -> datetime:
    """Return when a session ends: too old, or idle; idle days are whole days of UTC."""
    oldest = created_at + timedelta(days=settings().session_max_days)
    idle = last_used_on + timedelta(days=settings().session_idle_days + 1)
    return min(oldest, datetime.combine(idle, datetime.min.time(), UTC))


def _oldest(now: datetime) -> dict[str, object]:
    """Return from when on sessions are good at a moment: neither too old nor idle."""
    return {
        "made_after": now - timedelta(days=settings().session_max_days),
        "used_from": now.date() - timedelta(days=settings().session_idle_days),
    }


def _lasting(now: datetime) -> ColumnElement[bool]:
    oldest = _oldest(now)
    return (Session.created_at > oldest["made_after"]) & (Session.last_used_on >= oldest["used_from"])


def _identification() -> Select[Any]:
    """Return what reads an open account and the session of a token."""
    return (
        select(*account_columns(TODAY), Session.id.label("session_id"), Session.last_used_on)
        .join(Session, Session.account_id == Account.id)
        .where(
            Session.token_sha256 == bindparam("token_sha256"),
            Session.credentials_id == Account.credentials_id,
            Account.closed_at.is_(None),
            Session.created_at > bindparam("made_after"),
            Session.last_used_on >= bindparam("used_from"),
        )
    )


_IDENTIFY = PreparedRead(_identification())
_USE = (
    update(cast(Table, Session.__table__))
    .where(Session.id == bindparam("session_id"))
    .values(last_used_on=bindparam("today"))
)


def identify(token: str) -> Viewer:
    """Return whose session a token is, noting the day on which it was used.

    Raises:
        Unauthenticated: it is nobody's, or no longer.
    """
    now = clock.now()
    row = _IDENTIFY.first(token_sha256=_digest(token), today=now.date(), **_oldest(now))
    if row is None:
        raise Unauthenticated
    if row.last_used_on < now.date():
        outbox.write_soon(_USE, session_id=row.session_id, today=now.date())
    return Viewer(row, row.session_id)


@dataclass(frozen=True, slots=True)
class ListedSession:
    """A session as its owner sees it."""

    id: uuid.UUID
    created_at: datetime
    last_used_on: date
    expires_at: datetime
    current: bool


def listed(viewer: Viewer) -> list[ListedSession]:
    """Return the viewer's sessions that are good now, the newest first."""
    with reading() as session:
        rows = session.execute(
            select(Session.id, Session.created_at, Session.last_used_on)
            .where(
                Session.account_id == viewer.account.id,
                Session.credentials_id == viewer.account.credentials_id,
                _lasting(clock.now()),
            )
            .order_by(Session.created_at.desc())
        ).all()
    return [
        ListedSession(*row, _expires_at(row.created_at, row.last_used_on), row.id == viewer.session_id) for row in rows
    ]


def end(viewer: Viewer, session_id: uuid.UUID) -> None:
    """End one of the viewer's sessions.

    Raises:
        NotFound: the viewer has none with this id.
    """
    with transaction():
        ended = changed(delete(Session).where(Session.id == session_id, Session.account_id == viewer.account.id))
    if not ended:
        raise NotFound


def end_all(viewer: Viewer) -> None:
    """End every session of the viewer, this one too."""
    with transaction() as session:
        session.execute(delete(Session).where(Session.account_id == viewer.account.id))


def forget_ended() -> Iterator[None]:
    """Delete the sessions that are too old, idle, or of an earlier password; pause after each few that were looked at.

    To look at each of millions takes seconds: whoever calls this decides how much time others have in between.
    """
    current = select(Account.id).where(
        Account.id == Session.account_id, Account.credentials_id == Session.credentials_id
    )
    after = uuid.UUID(int=0)
    while True:
        further = select(Session.id).where(Session.id > after).order_by(Session.id)
        # Looked for before anything is locked.
        with reading() as session:
            last = session.scalar(further.offset(LOOKED_AT - 1).limit(1))
            few = further if last is None else further.where(Session.id <= last)
            ended = session.scalars(few.where(~_lasting(clock.now()) | ~current.exists())).all()
        for first in range(0, len(ended), FORGOTTEN_AT_ONCE):
            with transaction() as session:
                session.execute(delete(Session).where(Session.id.in_(ended[first : first + FORGOTTEN_AT_ONCE])))
        if last is None:
            return
        after = last
        yield
