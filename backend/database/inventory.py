"""The inventory: what is declared of every table and column, and which tables are about people."""

from dataclasses import dataclass

from sqlalchemy import Table

from backend.database.declarations import Category, Declaration
from backend.database.engine import Base

ABOUT_PEOPLE = {Category.PERSONAL, Category.PSEUDONYMOUS}


@dataclass(frozen=True, slots=True)
class DeclaredColumn:
    """One column: its name, and the four things that are declared of it."""

    name: str
    category: str
    purpose: str
    retention: str
    erasure: str


@dataclass(frozen=True, slots=True)
class DeclaredTable:
    """One table: its name, what one row of it is, and its columns."""

    name: str
    purpose: str
    columns: tuple[DeclaredColumn, ...]


def inventory() -> list[DeclaredTable]:
    """Return every table with every column that the service stores.

    Raises:
        KeyError: a column is not declared.
    """
    return [_declared(table) for table in Base.metadata.sorted_tables]


def _declared(table: Table) -> DeclaredTable:
    columns = []
    for column in table.columns:
        told: Declaration = column.info["declaration"]
        columns.append(DeclaredColumn(column.name, told.category.value, told.purpose, told.retention, told.erasure))
    return DeclaredTable(table.name, table.info["purpose"], tuple(columns))


def declarations(table: Table) -> dict[str, Declaration]:
    """Return what is declared of each column of a table."""
    return {column.name: column.info["declaration"] for column in table.columns}


def tables_about_people() -> list[Table]:
    """Return every table that may hold something about a person, each before those that it refers to."""
    tables = reversed(Base.metadata.sorted_tables)
    return [table for table in tables if any(told.category in ABOUT_PEOPLE for told in declarations(table).values())]


def basis_of(table: Table) -> str | None:
    """Return on which legal basis a table outlives the account; None where it goes with it.

    Raises:
        ValueError: its columns do not agree, so that nobody could say what erasing does to a row.
    """
    found = {told.basis for told in declarations(table).values()}
    if len(found) > 1:
        raise ValueError(f"{table.name}: some columns are kept and others are not")
    return found.pop()
