"""The versions of the privacy policy: published, in force from a day, accepted by people."""

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import date, datetime

from sqlalchemy import insert, select, update

from backend import clock
from backend.accounts import audit
from backend.database.engine import AnyRow, lock, reading, transaction
from backend.database.models import Announcement, Policy
from backend.errors import Impossible, Unknown

VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
# A form that holds it, with line ends of two bytes, fits into the largest body (web/bodies.py).
MOST_BYTES = 240 * 1024
STATES = IN_FORCE, UPCOMING, WITHDRAWN, REPLACED = "in force", "upcoming", "withdrawn", "replaced"


@dataclass(frozen=True, slots=True)
class Version:
    """A version: its first day (UTC), the SHA-256 of its text, and its state today, one of `STATES`.

    `text` is empty in a list: texts are long.
    """

    version: str
    effective_on: date
    sha256: str
    published_at: datetime
    state: str
    text: str = ""


def versions() -> list[Version]:
    """Return every published version without its text, by its first day."""
    today = clock.now().date()
    with reading() as session:
        in_force = session.scalar(select(Policy.in_force_on(today)))
        columns = [column for column in Policy.__table__.c if column.name != "text"]
        rows = session.execute(select(*columns).order_by(Policy.effective_on, Policy.published_at)).all()

    def state(row: AnyRow) -> str:
        if row.withdrawn_at:
            return WITHDRAWN
        if row.effective_on > today:
            return UPCOMING
        return IN_FORCE if row.version == in_force else REPLACED

    return [Version(row.version, row.effective_on, row.sha256, row.published_at, state(row)) for row in rows]


def with_text(version: Version) -> Version:
    """Return a version with its text."""
    with reading() as session:
        text = session.scalars(select(Policy.text).where(Policy.version == version.version)).one()
    return replace(version, text=text)


def current() -> Version | None:
    """Return the version in force today (UTC); None before the first."""
    return next((version for version in versions() if version.state == IN_FORCE), None)


def find(version: str) -> Version:
    """Return a published version with its text, or raise Unknown."""
    for each in versions():
        if each.version == version:
            return with_text(each)
    raise Unknown("there is no version with this name")


def _check_form(version: str, text: str) -> None:
    if not VERSION.fullmatch(version):
        raise Impossible("name the version with up to 40 letters, digits, dots and hyphens, such as 2026-11")
    if not text.strip():
        raise Impossible("the text is empty: give the policy as plain text")
    if len(text.encode()) + text.count("\n") > MOST_BYTES:
        raise Impossible(f"the text is longer than {MOST_BYTES // 1024} KiB")


def check(*, version: str, effective_on: date, text: str, once: bool = False) -> bool:
    """Return True if a version can be published, False if it is published already; otherwise raise Impossible.

    With `once`, raise for one that is published already too.
    """
    _check_form(version, text)
    known = [with_text(each) for each in versions()]
    for old in known:
        if old.version == version:
            if old.state != WITHDRAWN and (old.effective_on, old.text) == (effective_on, text):
                if once:
                    raise Impossible(f"version {version} is published already, with this text and day")
                return False
            raise Impossible(
                f"version {version} was published with another text or day, or withdrawn: choose a new name"
            )
    if effective_on < (today := clock.now().date()):
        raise Impossible(f"{effective_on} is over: name today, {today} in UTC, or a later day")
    for old in known:
        # A difference of white space only is none to a reader.
        if old.state != WITHDRAWN and old.text.split() == text.split():
            raise Impossible(f"version {old.version} has this text already: is it the right one?")
    return True


def publish(*, version: str, effective_on: date, text: str, once: bool = False) -> Version:
    """Publish a version, or raise as `check` does; publishing it again changes nothing."""
    row = {"version": version, "effective_on": effective_on, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    with transaction() as session:
        # Two at once could have the same text under two names.
        lock("policies")
        if check(version=version, effective_on=effective_on, text=text, once=once):
            session.execute(insert(Policy).values(**row, text=text, published_at=clock.now()))
            audit.record(
                "policy-published", None, actor="data manager", version=version, effective_on=f"{effective_on}"
            )
    return find(version)


def check_withdrawal(version: str) -> Version:
    """Return a version that can be withdrawn, or raise Impossible."""
    policy = find(version)
    if policy.state == WITHDRAWN:
        raise Impossible(f"version {version} is withdrawn already")
    if policy.state != UPCOMING:
        raise Impossible(f"version {version} came into force on {policy.effective_on}: publish another in its place")
    return policy


def withdraw(version: str) -> None:
    """Withdraw an upcoming version, or raise as `check_withdrawal` does.

    It stays readable, its name stays taken, and emails that announce it stop.
    """
    now = clock.now()
    with transaction() as session:
        lock("policies")
        check_withdrawal(version)
        session.execute(update(Policy).where(Policy.version == version).values(withdrawn_at=now))
        announcing = (Announcement.policy_version == version) & Announcement.finished_at.is_(None)
        session.execute(update(Announcement).where(announcing).values(finished_at=now))
        audit.record("policy-withdrawn", None, actor="data manager", version=version)
