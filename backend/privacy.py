"""What is stored about people, told from the declarations in `models` and from nothing else."""

from dataclasses import dataclass

from sqlalchemy import Table

from backend.db import Base
from backend.models import Declaration


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
        declaration: Declaration = column.info["declaration"]
        columns.append(
            DeclaredColumn(
                column.name,
                declaration.category.value,
                declaration.purpose,
                declaration.retention,
                declaration.erasure,
            )
        )
    return DeclaredTable(table.name, table.info["purpose"], tuple(columns))
