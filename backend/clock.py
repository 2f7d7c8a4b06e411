"""The time. Every part reads it here, so that a test can move it."""

from datetime import UTC, datetime


def rfc3339(moment: datetime) -> str:
    """Return a moment in UTC as text, to the second (RFC 3339)."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def now() -> datetime:
    """Return the present time, aware and in UTC."""
    return datetime.now(UTC)
