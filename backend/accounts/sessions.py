"""Sessions: begun with a proven password, good until they end or the password changes."""

import hashlib
import secrets
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

from sqlalchemy import BindParameter, Date, Table, bindparam, delete, insert, literal, select, update

from backend import clock
from backend.config import settings
from backend.database import outbox
from backend.database.engine import AnyRow, changed, reading, transaction
from backend.database.models import Account, Policy, Session
from backend.database.prepared import PreparedRead
from backend.database.steps import BATCH
from backend.errors import NotFound, Unauthenticated

PREFIX = "tiles_"
TOKEN_BYTES = 32
TABLE = cast("Table", Session.__table__)
TODAY = bindparam("today", type_=Date())


def account_columns(today: date | BindParameter[date] | None = None) -> tuple[Any, ...]:
    """Return the columns of an account that requests need. `TODAY` stands for the day in a prepared statement."""
    return (
        Account.id,
        Account.name,
        Account.email,
        Account.email_updates,
        Account.accepted_policy,
        Account.created_at,
        Account.closed_at,
        Account.password_hash,
        Account.credentials_id,
        Policy.in_force_on(clock.now().date() if today is None else today).label("current_policy"),
    )


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session at its beginning, the only moment at which its token is known."""

    token: str
    id: uuid.UUID
    expires_at: clock.Moment


@dataclass(frozen=True, slots=True)
class SignedIn:
    """The account and its new session."""

    account: AnyRow
    session: NewSession


@dataclass(frozen=True, slots=True)
class Viewer:
    """The open account that sends a request, and its session."""

    account: AnyRow
    session_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """A session as its owner sees it."""

    id: uuid.UUID
    created_at: clock.Moment
    last_used_on: date
    expires_at: clock.Moment
    current: bool


def begin(account: AnyRow, now: datetime) -> NewSession | None:
    """Insert a session in the caller's transaction; None if the account was closed, or its password changed."""
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    new = NewSession(token, uuid.uuid4(), _expires_at(now, now.date()))
    row = {
        Session.id: literal(new.id),
        Session.account_id: Account.id,
        Session.token_sha256: literal(digest(token)),
        Session.credentials_id: Account.credentials_id,
        Session.created_at: literal(now, Session.created_at.type),
        Session.last_used_on: literal(now.date()),
    }
    unchanged = (Account.id == account.id) & (Account.credentials_id == account.credentials_id)
    source = select(*row.values()).where(unchanged, Account.closed_at.is_(None))
    return new if changed(insert(TABLE).from_select([column.key for column in row], source)) else None


def digest(token: str) -> bytes:
    """Return the digest of a session's token, which is stored in its place."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _expires_at(created_at: datetime, last_used_on: date) -> datetime:
    """Return when a session ends: at its greatest age, or after so many whole idle days of UTC."""
    oldest = created_at + timedelta(days=settings().session_max_days)
    idle = last_used_on + timedelta(days=settings().session_idle_days + 1)
    return min(oldest, datetime.combine(idle, datetime.min.time(), UTC))


# A session that is neither too old, nor idle, nor of an earlier password.
_IS_GOOD = (
    (Session.account_id == Account.id)
    & (Session.credentials_id == Account.credentials_id)
    & (Session.created_at > bindparam("created_after"))
    & (Session.last_used_on >= bindparam("used_since"))
)
_IDENTIFY = PreparedRead(
    select(*account_columns(TODAY), Session.id.label("session_id"), Session.last_used_on).where(
        _IS_GOOD, Session.token_sha256 == bindparam("token_sha256"), Account.closed_at.is_(None)
    )
)
_USE = update(TABLE).where(Session.id == bindparam("session_id")).values(last_used_on=bindparam("today"))


def _limits(now: datetime) -> dict[str, object]:
    """Return the values for `_IS_GOOD`."""
    return {
        "created_after": now - timedelta(days=settings().session_max_days),
        "used_since": now.date() - timedelta(days=settings().session_idle_days),
    }


def identify(token: str) -> Viewer:
    """Return the viewer with this session token, and record the day of use."""
    now = clock.now()
    row = _IDENTIFY.first(token_sha256=digest(token), today=now.date(), **_limits(now))
    if row is None:
        raise Unauthenticated
    if row.last_used_on < now.date():
        outbox.write_soon(_USE, session_id=row.session_id, today=now.date())
    return Viewer(row, row.session_id)


def listed(viewer: Viewer) -> list[SessionEntry]:
    """Return the viewer's good sessions, newest first."""
    columns = (Session.id, Session.created_at, Session.last_used_on)
    query = select(*columns).where(_IS_GOOD, Account.id == viewer.account.id).order_by(Session.created_at.desc())
    with reading() as session:
        rows = session.execute(query, _limits(clock.now())).all()
    return [
        SessionEntry(*row, _expires_at(row.created_at, row.last_used_on), row.id == viewer.session_id) for row in rows
    ]


def end(viewer: Viewer, session_id: uuid.UUID) -> None:
    """End one of the viewer's sessions."""
    with transaction():
        ended = changed(delete(Session).where(Session.id == session_id, Session.account_id == viewer.account.id))
    if not ended:
        raise NotFound


def end_all(viewer: Viewer) -> None:
    """End every session of the viewer, this one too."""
    with transaction() as session:
        session.execute(delete(Session).where(Session.account_id == viewer.account.id))


def forget_ended() -> Iterator[None]:
    """Delete ended sessions. It yields after each batch, so that the caller can pause: millions take seconds."""
    last = uuid.UUID(int=0)
    while True:
        batch = select(Session.id).where(Session.id > last).order_by(Session.id).limit(BATCH)
        # Nothing is locked while the rows are looked at.
        with reading() as session:
            ids = session.scalars(batch).all()
            good = session.scalars(select(Session.id).where(Session.id.in_(ids), _IS_GOOD), _limits(clock.now())).all()
        if ended := set(ids).difference(good):
            with transaction() as session:
                session.execute(delete(Session).where(Session.id.in_(ended)))
        if len(ids) < BATCH:
            return
        last = ids[-1]
        yield
