"""The privacy policy's versions: published, in force from a day, accepted by people."""

import hashlib
import re
from dataclasses import dataclass
from datetime import date

from sqlalchemy import select

from backend import clock
from backend.db import AnyRow, db, insert_unless_taken, reading, transaction
from backend.errors import Impossible
from backend.models import Policy

VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass(frozen=True, slots=True)
class Published:
    """A version of the policy as it is announced: what it is called, from when it counts, and which text it is."""

    version: str
    effective_on: date
    sha256: str


def publish(*, version: str, effective_on: date, text: str) -> Published:
    """Publish a version; publishing the same again changes nothing.

    Raises:
        Impossible: the version has another text or day already, its name is none, or the text is empty.
    """
    if not VERSION.fullmatch(version):
        raise Impossible("name the version with up to 40 letters, digits, dots and hyphens, such as 2026-11")
    if not text.strip():
        raise Impossible("the text is empty: give a file with the policy as plain text")
    new = Published(version, effective_on, hashlib.sha256(text.encode()).hexdigest())
    with transaction():
        db.session.execute(
            insert_unless_taken(Policy).values(
                version=version, effective_on=effective_on, sha256=new.sha256, text=text, published_at=clock.now()
            )
        )
    if _published(version) != new:
        raise Impossible(f"version {version} is published with another text or day: choose a new name")
    return new


def _published(version: str) -> Published:
    with reading() as session:
        columns = (Policy.version, Policy.effective_on, Policy.sha256)
        return Published(*session.execute(select(*columns).where(Policy.version == version)).one())


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
        later = Policy.effective_on > clock.now().date()
        return list(session.execute(select(*columns).where(later).order_by(Policy.effective_on, Policy.published_at)))
