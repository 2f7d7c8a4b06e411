"""The privacy policy's versions: published, in force from a day, accepted by people."""

import hashlib
import re
from dataclasses import asdict, dataclass
from datetime import date, datetime

from sqlalchemy import insert, select, update

from backend import clock
from backend.database.engine import AnyRow, db, lock, reading, transaction
from backend.database.models import Announcement, Policy
from backend.errors import Impossible

VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
UPCOMING, WITHDRAWN = "upcoming", "withdrawn"


@dataclass(frozen=True, slots=True)
class Published:
    """A version of the policy as it is announced: what it is called, from when it counts, and which text it is."""

    version: str
    effective_on: date
    sha256: str


@dataclass(frozen=True, slots=True)
class Version(Published):
    """A version as it stands today: in force, upcoming, replaced or withdrawn."""

    published_at: datetime
    state: str
    text: str


def versions() -> list[Version]:
    """Return every version that was published, by the day from which it counts."""
    with reading():
        return _versions()


def _versions() -> list[Version]:
    today = clock.now().date()
    in_force = db.session.scalar(select(Policy.in_force_on(today)))

    def state(row: Policy) -> str:
        if row.withdrawn_at:
            return WITHDRAWN
        if row.effective_on > today:
            return UPCOMING
        return "in force" if row.version == in_force else "replaced"

    rows = db.session.scalars(select(Policy).order_by(Policy.effective_on, Policy.published_at))
    return [Version(row.version, row.effective_on, row.sha256, row.published_at, state(row), row.text) for row in rows]


def find(version: str) -> Version:
    """Return a version that was published.

    Raises:
        Impossible: there is none with this name.
    """
    return _named(version, versions())


def _named(version: str, known: list[Version]) -> Version:
    for each in known:
        if each.version == version:
            return each
    raise Impossible("there is no version with this name: see `tiles policy list`")


def check(*, version: str, effective_on: date, text: str) -> bool:
    """Tell whether a version is still to be published; False if it is, with this very text and day.

    Raises:
        Impossible: it cannot be: its name is none or is taken, its day is over, its text is empty or published already.
    """
    return _is_new(Published(version, effective_on, _sha256(text)), text, versions())


def publish(*, version: str, effective_on: date, text: str) -> Published:
    """Publish a version; publishing the same again changes nothing.

    Raises:
        Impossible: what `check` says.
    """
    new = Published(version, effective_on, _sha256(text))
    with transaction() as session:
        # Two at once may have the same text under two names.
        lock("policies")
        if _is_new(new, text, _versions()):
            session.execute(insert(Policy).values(**asdict(new), text=text, published_at=clock.now()))
    return new


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_new(new: Published, text: str, known: list[Version]) -> bool:
    if not VERSION.fullmatch(new.version):
        raise Impossible("name the version with up to 40 letters, digits, dots and hyphens, such as 2026-11")
    if not text.strip():
        raise Impossible("the text is empty: give a file with the policy as plain text")
    for old in known:
        if old.version == new.version:
            if old.state != WITHDRAWN and (old.effective_on, old.text) == (new.effective_on, text):
                return False
            raise Impossible(
                f"version {old.version} was published with another text or day, or withdrawn: choose a new name"
            )
    if new.effective_on < (today := clock.now().date()):
        raise Impossible(f"{new.effective_on} is over: name today, {today} in UTC, or a later day")
    for old in known:
        # White space shows no difference to a reader.
        if old.state != WITHDRAWN and old.text.split() == text.split():
            raise Impossible(f"version {old.version} has this text already: is it the right file?")
    return True


def check_withdrawal(version: str) -> Version:
    """Return a version that can be withdrawn.

    Raises:
        Impossible: there is none with this name, or it is or was in force, or is withdrawn.
    """
    return _withdrawable(version, versions())


def _withdrawable(version: str, known: list[Version]) -> Version:
    found = _named(version, known)
    if found.state == WITHDRAWN:
        raise Impossible(f"version {version} is withdrawn already")
    if found.state != UPCOMING:
        raise Impossible(f"version {version} came into force on {found.effective_on}: publish another in its place")
    return found


def withdraw(version: str) -> None:
    """Withdraw a version before its day: it stays readable, its name stays taken, and mails announcing it stop.

    Raises:
        Impossible: what `check_withdrawal` says.
    """
    now = clock.now()
    with transaction() as session:
        lock("policies")
        _withdrawable(version, _versions())
        session.execute(update(Policy).where(Policy.version == version).values(withdrawn_at=now))
        running = (Announcement.policy_version == version) & Announcement.finished_at.is_(None)
        session.execute(update(Announcement).where(running).values(finished_at=now))


def current() -> AnyRow | None:
    """Return the version in force today (UTC) and its text; None before the first."""
    columns = (Policy.version, Policy.effective_on, Policy.sha256, Policy.text)
    with reading() as session:
        in_force = Policy.in_force_on(clock.now().date())
        return session.execute(select(*columns).where(Policy.version == in_force)).one_or_none()


def upcoming() -> list[AnyRow]:
    """Return the versions that are published and not yet in force, and their texts, the next one first."""
    columns = (Policy.version, Policy.effective_on, Policy.sha256, Policy.text)
    with reading() as session:
        later = (Policy.effective_on > clock.now().date()) & Policy.withdrawn_at.is_(None)
        return list(session.execute(select(*columns).where(later).order_by(Policy.effective_on, Policy.published_at)))
