"""Who may sign in at the desk: invited in the shell, signed in by an emailed link, signed out after 8 hours at most."""

import hmac
import secrets
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, insert, or_, select, update

from backend import clock
from backend.accounts import audit
from backend.accounts.links import Link, State, misplaced_or_damaged
from backend.accounts.sessions import digest
from backend.database.desk_tables import DeskSession, Manager
from backend.database.engine import AnyRow, changed, lock, reading, transaction
from backend.errors import Impossible, InvalidToken, NotFound
from backend.mail import mailboxes, queue
from backend.security import throttle, tokens
from backend.security.tokens import Purpose

IDLE, LONGEST, RECENT = timedelta(minutes=30), timedelta(hours=8), timedelta(minutes=10)
# A use is recorded once a minute: a session may end a minute early.
NOTED = timedelta(minutes=1)
_COLUMNS = Manager.id, Manager.name, Manager.email, Manager.invited_at


@dataclass(frozen=True, slots=True)
class Visitor:
    """A data manager who is signed in, and the session."""

    manager: AnyRow
    session_id: uuid.UUID
    signed_in_at: datetime
    form_token: str

    @property
    def is_recent(self) -> bool:
        """Whether the sign-in is recent enough for acts that cannot be undone."""
        return self.signed_in_at > clock.now() - RECENT


def invite(email: str, name: str) -> AnyRow:
    """Let somebody sign in at the desk with this address; return the manager."""
    row = {"id": uuid.uuid4(), "name": name, "email": email, "sign_in_id": uuid.uuid4(), "invited_at": clock.now()}
    with transaction() as session:
        lock("managers")
        if session.scalar(select(Manager.id).where(Manager.is_present(email))):
            raise Impossible("somebody with this address is a data manager already: see `tiles desk list`")
        session.execute(insert(Manager).values(row))
        audit.record("manager-invited", None, actor="data manager", manager=str(row["id"]))
        return session.execute(select(*_COLUMNS).where(Manager.id == row["id"])).one()


def remove(email: str) -> AnyRow:
    """Remove a data manager, end their sessions, and return their row. The audit still names them."""
    with transaction() as session:
        manager = session.execute(select(*_COLUMNS).where(Manager.is_present(email)).with_for_update()).one_or_none()
        if manager is None:
            raise Impossible("nobody with this address is a data manager: see `tiles desk list`")
        session.execute(update(Manager).where(Manager.id == manager.id).values(removed_at=clock.now()))
        session.execute(delete(DeskSession).where(DeskSession.manager_id == manager.id))
        audit.record("manager-removed", None, actor="data manager", manager=str(manager.id))
    return manager


def listed() -> list[AnyRow]:
    """Return the data managers, in the order in which they were invited."""
    with reading() as session:
        present = select(*_COLUMNS).where(Manager.removed_at.is_(None))
        return list(session.execute(present.order_by(Manager.invited_at)))


def request_sign_in(*, email: str, client: str | None) -> None:
    """Email a link if this is a data manager's address, which only the mail worker looks up."""
    throttle.charge("desk-sign-in", client=client, address=email)
    queue.accept("desk_sign_in", email=email)


def look(*, token: str, client: str | None) -> tuple[Link, AnyRow | None]:
    """Return the state of a link, and the manager whom it signs in. Nothing is changed."""
    throttle.charge("token", client=client)
    return find(token)


def find(token: str) -> tuple[Link, AnyRow | None]:
    """Return the same as `look`, for a caller that has charged for this token already."""
    try:
        content, is_expired = tokens.read(Purpose.DESK, token)
    except InvalidToken:
        return misplaced_or_damaged(token), None
    if is_expired:
        return Link(State.EXPIRED), None
    manager = _of_token(content)
    return (Link(State.LIVE, manager.email), manager) if manager else (Link(State.REPLACED), None)


def _of_token(content: dict[str, str]) -> AnyRow | None:
    has_id = (Manager.id == uuid.UUID(content["account"])) & Manager.removed_at.is_(None)
    with reading() as session:
        manager = session.execute(select(*_COLUMNS, Manager.sign_in_id).where(has_id)).one_or_none()
    if manager is None or tokens.manager_state(manager) != content["state"]:
        return None
    return manager


def sign_in(*, token: str, client: str | None) -> str:
    """Use a link up, and return the token of the session that begins.

    Raises:
        InvalidToken: it is expired or was used, or the manager was removed.
    """
    throttle.charge("token", client=client)
    content, session_token, now = tokens.redeem(Purpose.DESK, token), secrets.token_urlsafe(32), clock.now()
    with transaction() as session:
        manager = _of_token(content)
        if manager is None:
            raise InvalidToken
        is_unused = (Manager.id == manager.id) & (Manager.sign_in_id == manager.sign_in_id)
        if not changed(update(Manager).where(is_unused).values(sign_in_id=uuid.uuid4())):
            raise InvalidToken
        row = {"id": uuid.uuid4(), "manager_id": manager.id, "signed_in_at": now, "last_used_at": now}
        session.execute(insert(DeskSession).values(**row, token_sha256=digest(session_token)))
        mailboxes.give_back(manager.email)
        with audit.acting(manager.id):
            audit.record("signed-in", None, actor="data manager")
    return session_token


def _has_ended(now: datetime) -> ColumnElement[bool]:
    return or_(DeskSession.last_used_at <= now - IDLE, DeskSession.signed_in_at <= now - LONGEST)


def identify(session_token: str) -> Visitor | None:
    """Return who is signed in with this token, and record the use; None if nobody is."""
    now = clock.now()
    is_valid = (DeskSession.token_sha256 == digest(session_token)) & ~_has_ended(now) & Manager.removed_at.is_(None)
    columns = (*_COLUMNS, DeskSession.id.label("session_id"), DeskSession.signed_in_at, DeskSession.last_used_at)
    with reading() as session:
        row = session.execute(
            select(*columns).join(DeskSession.__table__, DeskSession.manager_id == Manager.id).where(is_valid)
        ).one_or_none()
    if row is None:
        return None
    if row.last_used_at <= now - NOTED:
        with transaction() as session:
            session.execute(update(DeskSession).where(DeskSession.id == row.session_id).values(last_used_at=now))
    form_token = hmac.digest(session_token.encode(), b"form", "sha256").hex()
    return Visitor(row, row.session_id, row.signed_in_at, form_token)


def sessions(visitor: Visitor) -> list[AnyRow]:
    """Return the manager's sessions, the newest first."""
    columns = (DeskSession.id, DeskSession.signed_in_at, DeskSession.last_used_at)
    of_manager = (DeskSession.manager_id == visitor.manager.id) & ~_has_ended(clock.now())
    with reading() as session:
        return list(session.execute(select(*columns).where(of_manager).order_by(DeskSession.signed_in_at.desc())))


def end_session(visitor: Visitor, session_id: uuid.UUID) -> None:
    """End one of the manager's sessions."""
    of_manager = (DeskSession.id == session_id) & (DeskSession.manager_id == visitor.manager.id)
    with transaction():
        if not changed(delete(DeskSession).where(of_manager)):
            raise NotFound


def forget_ended() -> None:
    """Delete the sessions that have ended."""
    with transaction() as session:
        session.execute(delete(DeskSession).where(_has_ended(clock.now())))
