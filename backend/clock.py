"""The time. Every part reads it here, so that a test can move it."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, PlainSerializer, WithJsonSchema


def rfc3339(moment: datetime) -> str:
    """Return a moment in UTC as text, to the second (RFC 3339)."""
    return moment.isoformat(timespec="seconds").removesuffix("+00:00") + "Z"


# Decoders of several platforms refuse fractions of a second.
Moment = Annotated[AwareDatetime, PlainSerializer(rfc3339), WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time of the JSON contract: in whole seconds."""


def now() -> datetime:
    """Return the present time, aware and in UTC."""
    return datetime.now(UTC)
