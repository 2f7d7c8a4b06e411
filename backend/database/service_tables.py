"""The tables that the service needs for itself; none of them names anybody."""

from datetime import date, datetime, timedelta

from sqlalchemy.orm import Mapped
from sqlalchemy.types import BigInteger, LargeBinary, String

from backend.database.declarations import internal, public, technical
from backend.database.engine import Base
from backend.database.models import PUBLIC

# A count up to the key is deleted this long after the last wrong password: fewer than 100 guesses a year are possible,
# and single ones for many addresses do not fill the disk. The same for every address, so that it shows no account.
FORGET_WRONG_PASSWORDS = {1: timedelta(days=4), 10: timedelta(days=40), 100: timedelta(days=365)}

KEY = "until the key is no longer used"
TODAY = "until the end of the day (UTC)"
FORGOTTEN = "until the right password or an emailed link is used, or a while after the last: 4 days to a year"


class PasswordCost(Base):
    """Each setting with which stored passwords are protected, so that signing in takes everybody the same time."""

    __tablename__ = "password_costs"
    cost: Mapped[str] = public("The setting, as it is stored with each password", PUBLIC, String(60), primary_key=True)


class KeyDigest(Base):
    """Each key that signs links and receipts, so that a machine with other keys notices."""

    __tablename__ = "key_digests"
    digest: Mapped[str] = internal("Recognises the key without storing it", KEY, String(64), primary_key=True)
    first_seen: Mapped[date] = internal("When the service began to sign with it", KEY)


class Total(Base):
    """How many emails were sent and accounts erased since the first day, for the operator."""

    __tablename__ = "totals"
    event: Mapped[str] = public("What was done", PUBLIC, String(40), primary_key=True)
    value: Mapped[int] = public("How often", PUBLIC, BigInteger)


class WrongPassword(Base):
    """How many wrong passwords were tried, so that nobody can guess one; it names nobody."""

    __tablename__ = "wrong_passwords"
    address: Mapped[bytes] = technical("Which address, in a secret code", FORGOTTEN, LargeBinary(32), primary_key=True)
    client: Mapped[bytes] = technical(
        "Who tried, in a secret code; empty for all together", FORGOTTEN, LargeBinary(32), primary_key=True
    )
    count: Mapped[int] = technical("How many", FORGOTTEN)
    last_on: Mapped[date] = technical("The day of the last one", FORGOTTEN)
    trusted_until: Mapped[datetime | None] = technical("Until when a used link allows signing in", "an hour")


class MailboxCount(Base):
    """How many emails were requested for an inbox today, so that none is flooded; it names nobody."""

    __tablename__ = "mailbox_counts"
    mailbox: Mapped[bytes] = technical(
        "Which inbox, in a secret code that is new each day", TODAY, LargeBinary(32), primary_key=True
    )
    kinds: Mapped[str] = technical("What the emails are about", TODAY, String(20), primary_key=True)
    day: Mapped[date] = technical("Which day", TODAY)
    count: Mapped[int] = technical("How many", TODAY)
