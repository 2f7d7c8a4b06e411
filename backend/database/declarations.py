"""The declaration of every stored column: its purpose, its retention, and its treatment by an erasure."""

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from sqlalchemy.orm import MappedColumn, mapped_column

DELETED = "deleted"
UNTOUCHED = "nothing: it is about nobody"
ABOUT_STAFF = "nothing: it is about a data manager"
KEPT = "kept: "
ACCOUNTABILITY = "showing that the law was kept, GDPR Art. 5(2) and 17(3)(e)"


class Category(StrEnum):
    """The kind of data in a column."""

    PERSONAL = "personal"
    PSEUDONYMOUS = "pseudonymous"
    TECHNICAL = "technical"
    STAFF = "staff"
    PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class Declaration:
    """The information about a column for people. `withheld` says why an export does not show its value."""

    category: Category
    purpose: str
    retention: str
    erasure: str
    withheld: str | None = None

    @property
    def basis(self) -> str | None:
        """The legal basis on which the column outlives the account, or None if it does not."""
        return self.erasure.removeprefix(KEPT) if self.erasure.startswith(KEPT) else None


def declared(
    category: Category,
    erasure: str,
    purpose: str,
    retention: str,
    *args: Any,
    withheld: str | None = None,
    **options: Any,
) -> MappedColumn[Any]:
    """Return a column and its declaration; `args` and `options` are SQLAlchemy's."""
    declaration = Declaration(category, purpose, retention, erasure, withheld)
    return mapped_column(*args, info={"declaration": declaration}, **options)


# About a person.
personal = partial(declared, Category.PERSONAL, DELETED)
# Connected to a person only by a random number.
pseudonymous = partial(declared, Category.PSEUDONYMOUS, DELETED)
# Needed by the service to work, and deleted with the account.
technical = partial(declared, Category.TECHNICAL, DELETED)
# Needed by the service to work, and about nobody.
internal = partial(declared, Category.TECHNICAL, UNTOUCHED)
# About a data manager, and about nobody with an account.
staff = partial(declared, Category.STAFF, ABOUT_STAFF)
# Kept after the account is erased; it names no person.
kept = partial(declared, Category.PSEUDONYMOUS, KEPT + ACCOUNTABILITY)
public = partial(declared, Category.PUBLIC, UNTOUCHED)
