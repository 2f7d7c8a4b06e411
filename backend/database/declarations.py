"""What is declared of every stored column: what it is, what for, for how long, and what erasing does to it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy.orm import MappedColumn, mapped_column


class Category(StrEnum):
    """What kind of data a column holds."""

    PERSONAL = "personal"
    PSEUDONYMOUS = "pseudonymous"
    TECHNICAL = "technical"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a column holds, what for, for how long, and what erasing the account does to it.

    `withheld` says why a copy of the data shows that the column is there, and not what it holds.
    """

    category: Category
    purpose: str
    retention: str
    erasure: str
    withheld: str | None = None

    @property
    def basis(self) -> str | None:
        """On which legal basis the column outlives the account; None where it does not."""
        return self.erasure.removeprefix(KEPT) if self.erasure.startswith(KEPT) else None


DELETED = "deleted"
UNTOUCHED = "none: it is about nobody"
KEPT = "kept: "
ACCOUNTABILITY = "showing that the law was kept, GDPR Art. 5(2) and 17(3)(e)"
FOR_GOOD = "for good: it is public"


def _column(declaration: Declaration, args: tuple[Any, ...], options: dict[str, Any]) -> MappedColumn[Any]:
    return mapped_column(*args, info={"declaration": declaration}, **options)


def personal(purpose: str, retention: str, *args: Any, **options: Any) -> MappedColumn[Any]:
    """Declare what is about a person and goes with the account."""
    return _column(Declaration(Category.PERSONAL, purpose, retention, DELETED), args, options)


def pseudonymous(purpose: str, retention: str, *args: Any, **options: Any) -> MappedColumn[Any]:
    """Declare what is tied to a person by a random number only, and goes with the account."""
    return _column(Declaration(Category.PSEUDONYMOUS, purpose, retention, DELETED), args, options)


def technical(purpose: str, retention: str, *args: Any, **options: Any) -> MappedColumn[Any]:
    """Declare what the service needs to work, and what goes with the account."""
    return _column(Declaration(Category.TECHNICAL, purpose, retention, DELETED), args, options)


def secret(
    category: Category, purpose: str, retention: str, withheld: str, *args: Any, **options: Any
) -> MappedColumn[Any]:
    """Declare what goes with the account, and what no copy of the data shows, for a reason."""
    return _column(Declaration(category, purpose, retention, DELETED, withheld), args, options)


def kept(category: Category, purpose: str, retention: str, *args: Any, **options: Any) -> MappedColumn[Any]:
    """Declare what outlives the account to show that the law was kept; it names no person."""
    return _column(Declaration(category, purpose, retention, KEPT + ACCOUNTABILITY), args, options)


def public(purpose: str, *args: Any, **options: Any) -> MappedColumn[Any]:
    """Declare what is about nobody."""
    return _column(Declaration(Category.PUBLIC, purpose, FOR_GOOD, UNTOUCHED), args, options)


def internal(purpose: str, retention: str, *args: Any, **options: Any) -> MappedColumn[Any]:
    """Declare what the service needs to work, and what is about nobody."""
    return _column(Declaration(Category.TECHNICAL, purpose, retention, UNTOUCHED), args, options)
