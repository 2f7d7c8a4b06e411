"""The time. Every part reads it here, so that a test can move it."""

from datetime import UTC, date, datetime
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, PlainSerializer, WithJsonSchema


def rfc3339(moment: datetime) -> str:
    """Return a moment in UTC as text, to the second (RFC 3339)."""
    return moment.isoformat(timespec="seconds").removesuffix("+00:00") + "Z"


# Decoders of several platforms refuse fractions of a second.
Moment = Annotated[AwareDatetime, PlainSerializer(rfc3339), WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time of the JSON contract: in whole seconds."""


def plain(value: object) -> object:
    """Return a stored value as JSON has it: times in RFC 3339, days and ids as text."""
    match value:
        case datetime():
            return rfc3339(value)
        case date() | UUID():
            return str(value)
        case _:
            return value


def now() -> datetime:
    """Return the present time, aware and in UTC."""
    return datetime.now(UTC)


def day(text: str) -> date:
    """Return the day that a text such as 2027-01-31 names. A ValueError says so of any other text."""
    try:
        parsed = date.fromisoformat(text)
    except ValueError:
        parsed = date.min
    # Python also reads 20270131 and 2027-W04-7.
    if parsed.isoformat() != text:
        raise ValueError("write a day such as 2027-01-31")
    return parsed
