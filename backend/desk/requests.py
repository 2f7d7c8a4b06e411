"""The register of requests about personal data (GDPR Art. 12(3)), and the erasures that wait beside them."""

import calendar
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Select, case, func, select, true, update

from backend import clock
from backend.accounts import audit
from backend.database.desk_tables import DataRequest
from backend.database.engine import AnyRow, changed, insert_unless_taken, reading, transaction
from backend.database.models import Account, Hold
from backend.database.paging import PAGE, Column, Key, Page, end_of, follows, newest_first, page_of
from backend.desk.naming import refuse_naming
from backend.desk.operations import MANAGER, accounts_where, get_account
from backend.errors import Impossible, Unknown
from backend.privacy import erasure

Kind = Literal["access", "correction", "erasure", "objection", "other"]
Way = Literal["email", "letter", "phone", "app", "in person"]
KINDS, WAYS = get_args(Kind), get_args(Way)
MONTHS, MONTHS_EXTENDED = 1, 3
OLDEST = timedelta(days=365)


def record(  # noqa: PLR0913 - the fields of its form
    who: str | None, *, kind: str, way: str, identity: str, received_on: date, request_id: uuid.UUID | None = None
) -> uuid.UUID:
    """Enter a request into the register, and return its id. The same `request_id` again changes nothing.

    Args:
        who: the account of the person, or None if there is none.
        kind: one of `KINDS`.
        way: one of `WAYS`.
        identity: how it was checked who asks.
        received_on: the day on which it came.
        request_id: an id that the form had from the beginning, so that a form that is sent twice is one request.
    """
    account, today = get_account(who) if who else None, clock.now().date()
    if kind not in KINDS or way not in WAYS:
        raise Impossible(f"choose one of {', '.join(KINDS)}, and one of {', '.join(WAYS)}")
    if not today - OLDEST <= received_on <= today:
        raise Impossible("write the day on which the request came: today or earlier, and at most a year ago")
    refuse_naming(identity, account)
    account_id, request_id = account.id if account else None, request_id or uuid.uuid4()
    days = {"received_on": received_on, "due_on": months_after(received_on, MONTHS)}
    row = {"account_id": account_id, "kind": kind, "way": way, "identity": identity, "recorded_at": clock.now()}
    with transaction():
        if changed(insert_unless_taken(DataRequest).values(id=request_id, **row, **days)):
            texts = {name: str(day) for name, day in days.items()}
            audit.record("request-recorded", account_id, actor=MANAGER, kind=kind, **texts)
    return request_id


def months_after(day: date, months: int) -> date:
    """Return the same day some months later, or the last of that month (Regulation 1182/71, Art. 3(2)(c))."""
    years, month = divmod(day.month - 1 + months, 12)
    year, month = day.year + years, month + 1
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def find(request_id: uuid.UUID) -> AnyRow:
    """Return everything that the register has about a request; raise Unknown if there is none."""
    with reading() as session:
        row = session.execute(select(*DataRequest.__table__.c).where(DataRequest.id == request_id)).one_or_none()
    if row is None:
        raise Unknown("there is no request with this id")
    return row


def extended_to(request: AnyRow) -> date:
    """Return the day until which a request can be put off."""
    return months_after(request.received_on, MONTHS_EXTENDED)


def can_extend(request: AnyRow) -> bool:
    """Return whether a request can be put off now: once, and before it is late."""
    return not (request.done_on or request.extension) and request.due_on >= clock.now().date()


def extend(request_id: uuid.UUID, *, reason: str) -> date:
    """Put a request off until three months after it came, once and before it is late; return the new day."""
    request, today = find(request_id), clock.now().date()
    due_on = extended_to(request)
    possible = DataRequest.extension.is_(None) & (DataRequest.due_on >= today)
    _change(request, possible, "request-extended", reason, {"due_on": due_on, "extension": reason})
    return due_on


def finish(request_id: uuid.UUID, *, outcome: str) -> None:
    """Note how a request was answered, today."""
    request, today = find(request_id), clock.now().date()
    _change(request, true(), "request-done", outcome, {"done_on": today, "outcome": outcome})


def _change(
    request: AnyRow, possible: ColumnElement[bool], act: audit.Act, text: str, values: dict[str, date | str]
) -> None:
    account = next(iter(accounts_where(Account.id == request.account_id)), None)
    refuse_naming(text, account)
    waits = (DataRequest.id == request.id) & DataRequest.done_on.is_(None) & possible
    days = {name: str(value) for name, value in values.items() if isinstance(value, date)}
    with transaction():
        if changed(update(DataRequest).where(waits).values(**values)):
            audit.record(act, request.account_id, actor=MANAGER, kind=request.kind, **days)
            return
    raise Impossible(_why_not(find(request.id)))


def _why_not(request: AnyRow) -> str:
    if request.done_on:
        return f"this request was answered already, on {request.done_on}"
    if request.extension:
        return f"this request was put off already, until {request.due_on}"
    return f"this request was due on {request.due_on}: it can be put off only before it is late"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request of the register, due at the end of its day, or an erasure that the service does, which has no id.

    `asked_at` is None for a closed account whose retention time ended.
    """

    account: uuid.UUID | None
    asked_at: datetime | None
    age_days: int | None
    due: datetime
    held_until: datetime | None
    overdue: bool
    id: uuid.UUID | None = None
    kind: str = "erasure"
    way: str | None = None
    received_on: date | None = None
    extended: bool = False


def waiting(*, overdue: bool = False) -> list[Waiting]:
    """Return all requests and erasures that wait, the first due first; with `overdue`, only those that are late.

    A legal hold delays an erasure, but not the answer to a request.
    """
    return [request for _, request in _sorted(overdue=overdue)]


def page(after: Key | None = None) -> Page:
    """Return some of the requests and erasures that wait, the first due first."""
    pairs, last = page_of(_sorted(after=after, limit=PAGE + 1), lambda pair: pair[0])
    return Page([request for _, request in pairs], last)


def _sorted(*, overdue: bool = False, after: Key | None = None, limit: int | None = None) -> list[tuple[Key, Waiting]]:
    now = clock.now()
    with reading() as session:
        waiting_rows = [
            (Key(row.due, row.id), _erasure(now, row))
            for statement in _erasures(now, overdue=overdue, after=after)
            for row in session.execute(statement.limit(limit))
        ]
        for row in session.execute(_register(now, overdue=overdue, after=after).limit(limit)):
            request = _request(now, row)
            waiting_rows.append((Key(request.due, row.id), request))
    return sorted(waiting_rows, key=lambda pair: pair[0])[:limit]


def _erasures(now: datetime, *, overdue: bool, after: Key | None) -> Iterator[Select[Any]]:
    """Return a statement for each kind of waiting erasure, as one index serves each."""
    asked = Account.erasure_requested_at.is_not(None) & Account.erase_after.is_not(None)
    free = asked & Hold.latest(now).is_(None)
    forgotten = erasure.is_due(now) & Account.erasure_requested_at.is_(None)
    columns: tuple[Any, ...] = (Account.id, Account.erasure_requested_at, Account.erase_after.label("due"))
    for condition in (free & (Account.erase_after <= now) if overdue else free, forgotten):
        yield _after(select(*columns, Hold.latest(now).label("held_until")).where(condition),
                     Account.erase_after, Account.id, after)  # fmt: skip
    if not overdue:
        latest = func.max(Hold.until).label("held_until")
        held = select(Hold.account_id, latest).where(Hold.until > now).group_by(Hold.account_id).subquery()
        due = case((held.c.held_until > Account.erase_after, held.c.held_until), else_=Account.erase_after)
        columns = (Account.id, Account.erasure_requested_at, due.label("due"))
        yield _after(select(*columns, held.c.held_until).join(held, held.c.account_id == Account.id).where(asked),
                     due, Account.id, after)  # fmt: skip


def _after(statement: Select[Any], due: Column, id_: Column, after: Key | None) -> Select[Any]:
    if after:
        statement = statement.where(follows(due, id_, after, newest_first=False))
    return statement.order_by(due, id_)


def _register(now: datetime, *, overdue: bool, after: Key | None) -> Select[Any]:
    columns = (*DataRequest.__table__.c, Hold.latest(now).label("held_until"))
    statement = select(*columns).outerjoin(Account, Account.id == DataRequest.account_id)
    statement = statement.where(DataRequest.done_on.is_(None))
    if overdue:
        statement = statement.where(DataRequest.due_on < now.date())
    if after and after.at != end_of(after.at.date()):
        # The key is of an erasure on this day: all requests of the day, due at its end, follow.
        after = Key(after.at, uuid.UUID(int=0))
    return _after(statement, DataRequest.due_on, DataRequest.id, after)


def _erasure(now: datetime, row: AnyRow) -> Waiting:
    asked_at = row.erasure_requested_at
    age = (now - asked_at).days if asked_at else None
    overdue = row.due <= now and row.held_until is None
    return Waiting(row.id, asked_at, age, row.due, row.held_until, overdue)


def _request(now: datetime, row: AnyRow) -> Waiting:
    received_at, due = datetime.combine(row.received_on, time.min, UTC), end_of(row.due_on)
    as_erasure = row.account_id, received_at, (now - received_at).days, due, row.held_until, due < now
    return Waiting(*as_erasure, row.id, row.kind, row.way, row.received_on, row.extension is not None)


def answered(after: Key | None = None) -> Page:
    """Return some of the answered requests, the last answered first."""
    statement = select(*DataRequest.__table__.c).where(DataRequest.done_on.is_not(None))
    return newest_first(statement, DataRequest.done_on, DataRequest.id, after)
