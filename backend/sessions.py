"""Sessions: opened by whoever proved a password, good until they end or the password changes."""

import hashlib
import secrets
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, insert, literal, select, update

from backend import clock
from backend.config import settings
from backend.db import AnyRow, changed, reading, transaction
from backend.errors import NotFound, Unauthenticated
from backend.models import Account, Policy, Session

PREFIX = "tiles_"
TOKEN_BYTES = 32


def account_columns() -> tuple[Any, ...]:
    """Return what a request about an account may need of it, to be read in one statement."""
    return (*_COLUMNS, Policy.in_force_on(clock.now().date()).label("current_policy"))


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
    Account.taken_back_at,
)


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session at its beginning: the only moment at which its token is known."""

    token: str
    id: uuid.UUID
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Viewer:
    """Whose request this is: an open account, and the session that says so."""

    account: AnyRow
    session_id: uuid.UUID


def begin(account: AnyRow, now: datetime) -> NewSession | None:
    """Insert a session, unless the account was closed or got another password since it was read."""
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    session_id = uuid.uuid4()
    columns = (Session.id, Session.account_id, Session.token_sha256, Session.credentials_id,
               Session.created_at, Session.last_used_on)  # fmt: skip
    values = select(
        literal(session_id, Session.id.type), Account.id, literal(_digest(token)), Account.credentials_id,
        literal(now, Session.created_at.type), literal(now.date()),
    ).where(
        Account.id == account.id,
        Account.credentials_id == account.credentials_id,
        Account.closed_at.is_(None),
    )  # fmt: skip
    done = changed(insert(Session).from_select(columns, values))
    return NewSession(token, session_id, _expires_at(now, now.date())) if done else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _expires_at(created_at: datetime, last_used_on: date) -> datetime:
    """Return when a session ends: too old, or idle; idle days are whole days of UTC."""
    oldest = created_at + timedelta(days=settings().session_max_days)
    idle = last_used_on + timedelta(days=settings().session_idle_days + 1)
    return min(oldest, datetime.combine(idle, datetime.min.time(), UTC))


def _lasting(now: datetime) -> ColumnElement[bool]:
    return (Session.created_at > now - timedelta(days=settings().session_max_days)) & (
        Session.last_used_on >= now.date() - timedelta(days=settings().session_idle_days)
    )


def identify(token: str) -> Viewer:
    """Return whose session a token is, noting the day on which it was used.

    Raises:
        Unauthenticated: it is nobody's, or no longer.
    """
    now = clock.now()
    with reading() as session:
        row = session.execute(
            select(*account_columns(), Session.id.label("session_id"), Session.last_used_on)
            .join(Session, Session.account_id == Account.id)
            .where(
                Session.token_sha256 == _digest(token),
                Session.credentials_id == Account.credentials_id,
                Account.closed_at.is_(None),
                _lasting(now),
            )
        ).one_or_none()
    if row is None:
        raise Unauthenticated
    if row.last_used_on < now.date():
        with transaction() as session:
            session.execute(update(Session).where(Session.id == row.session_id).values(last_used_on=now.date()))
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


def forget_ended() -> None:
    """Delete the sessions that are too old, idle, or of an earlier password."""
    current = select(Account.id).where(
        Account.id == Session.account_id, Account.credentials_id == Session.credentials_id
    )
    with transaction() as session:
        session.execute(delete(Session).where(~_lasting(clock.now()) | ~current.exists()))
