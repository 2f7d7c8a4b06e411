"""The inventory: every table and column with its declaration, and which tables are about people."""

from dataclasses import dataclass

from sqlalchemy import Table

from backend.database import desk_tables, models, service_tables  # noqa: F401 - every table
from backend.database.declarations import Category, Declaration
from backend.database.engine import Base

ABOUT_PEOPLE = {Category.PERSONAL, Category.PSEUDONYMOUS}


@dataclass(frozen=True, slots=True)
class DeclaredColumn:
    """A column as people read about it."""

    name: str
    category: str
    purpose: str
    retention: str
    erasure: str


@dataclass(frozen=True, slots=True)
class DeclaredTable:
    """A table as people read about it."""

    name: str
    purpose: str
    columns: tuple[DeclaredColumn, ...]


def declarations(table: Table) -> dict[str, Declaration]:
    """Return the declaration of each column of a table. Raises KeyError if one has none."""
    return {column.name: column.info["declaration"] for column in table.columns}


def inventory() -> list[DeclaredTable]:
    """Return every table that the service stores. Raises KeyError if a column is not declared."""
    return [
        DeclaredTable(
            table.name,
            table.info["purpose"],
            tuple(
                DeclaredColumn(name, column.category.value, column.purpose, column.retention, column.erasure)
                for name, column in declarations(table).items()
            ),
        )
        for table in Base.metadata.sorted_tables
    ]


def tables_about_people() -> list[Table]:
    """Return every table that may hold something about a person, each before the tables that it refers to."""
    tables = reversed(Base.metadata.sorted_tables)
    return [table for table in tables if any(c.category in ABOUT_PEOPLE for c in declarations(table).values())]


def basis_of(table: Table) -> str | None:
    """Return the legal basis on which a table outlives the account, or None if it is deleted with it.

    Raises:
        ValueError: the columns do not agree, so that erasing a row is not defined.
    """
    bases = {column.basis for column in declarations(table).values()}
    if len(bases) > 1:
        raise ValueError(f"{table.name}: some columns are kept and others are not")
    return bases.pop()
