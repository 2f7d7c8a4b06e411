"""Tables that count what strangers do, under digests that name nobody: not for long, and the same for every address."""

from datetime import date, datetime, timedelta

from sqlalchemy import LargeBinary, String
from sqlalchemy.orm import Mapped

from backend.database.declarations import technical
from backend.database.engine import Base

# Up to how many wrong passwords are forgotten how many days after the last: whoever waits for that tries less than a
# hundred a year, and whoever tries one each for many addresses fills no disk. The same for every address.
FORGET_WRONG_PASSWORDS = {1: timedelta(days=4), 10: timedelta(days=40), 100: timedelta(days=365)}
TODAY = "until the day (UTC) is over"
WRONG_PASSWORDS = (
    "until the right one or a mailed link is used, or a while after the last: one for 4 days, many for a year"
)


class WrongPassword(Base):
    """How many wrong passwords were tried for an address: by everybody, or by one client or network."""

    __tablename__ = "wrong_passwords"

    address: Mapped[bytes] = technical(
        "Which address: a digest under the service's key", WRONG_PASSWORDS, LargeBinary(32), primary_key=True
    )
    client: Mapped[bytes] = technical(
        "By whom: a digest under the service's key; empty for all together", WRONG_PASSWORDS, LargeBinary(32),
        primary_key=True,
    )  # fmt: skip
    count: Mapped[int] = technical("How many", WRONG_PASSWORDS)
    last_on: Mapped[date] = technical("On which day the last one was tried", WRONG_PASSWORDS)
    trusted_until: Mapped[datetime | None] = technical(
        "Until when a client may sign in that has just used a mailed link", "an hour"
    )

    __table_args__ = ({"info": {"purpose": "Counts of wrong passwords, so that none is guessed; they name nobody"}},)


class MailboxCount(Base):
    """How many mails that anybody may ask for a mailbox got in a day."""

    __tablename__ = "mailbox_counts"

    mailbox: Mapped[bytes] = technical(
        "Which mailbox: a digest under the service's key, another one each day", TODAY, LargeBinary(32),
        primary_key=True,
    )  # fmt: skip
    kinds: Mapped[str] = technical("What they are about", TODAY, String(20), primary_key=True)
    day: Mapped[date] = technical("Which day", TODAY)
    count: Mapped[int] = technical("How many", TODAY)

    __table_args__ = ({"info": {"purpose": "Counts of mails, so that no mailbox is flooded; they name nobody"}},)
