"""Export: everything that is held about an account, found from the declarations and nothing else."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, func, or_, select

from backend import clock
from backend.database.engine import AnyRow, reading
from backend.database.inventory import declarations, tables_about_people
from backend.database.models import Account, Mail


def rows_about(table: Table, accounts: Sequence[AnyRow]) -> ColumnElement[bool]:
    """Return the condition that a row of a table is about one of these accounts (each with its id and email)."""
    ids = [account.id for account in accounts]
    if table is Account.__table__:
        return table.c.id.in_(ids)
    mine: ColumnElement[bool] = table.c.account_id.in_(ids)
    # The mail with which a registration began has the account's id; it is there while a repeat of it waits.
    return or_(mine, table.c.id.in_(ids), is_mail_to(accounts)) if table is Mail.__table__ else mine


def is_mail_to(accounts: Sequence[AnyRow]) -> ColumnElement[bool]:
    """Return the condition that a mail was asked for without a session, for the address of one of these accounts.

    Neither those of another account with that address are meant, nor a receipt, nor the one with which somebody is
    just registering anew, that is since the account was closed.
    """
    ids, addresses = [account.id for account in accounts], {account.email.lower() for account in accounts}
    having_it = select(Account.id).where(func.lower(Account.email) == func.lower(Mail.email))
    other = having_it.where(Account.id.not_in(ids))
    before = having_it.where(Account.id.in_(ids), Account.closed_at > Mail.created_at)
    return and_(
        Mail.account_id.is_(None),
        Mail.kind != "erased",
        (Mail.kind != "registration") | Mail.abandoned_at.is_not(None) | before.exists(),
        func.lower(Mail.email).in_(addresses),
        ~other.exists(),
    )


@dataclass(frozen=True, slots=True)
class ExportedTable:
    """What one table holds about an account: every column of every row, and what each column is for."""

    table: str
    purpose: str
    columns: dict[str, str]
    rows: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Export:
    """Everything that is held about an account."""

    exported_at: datetime
    stored: list[ExportedTable]


def export(account_id: uuid.UUID) -> Export:
    """Return everything that is held about an account, complete by construction: table by table, column by column.

    A value that nobody should carry about, such as the hash of the password, is replaced by the reason.
    """
    with reading() as session:
        accounts = session.execute(select(Account.id, Account.email).where(Account.id == account_id)).all()
        stored = [
            ExportedTable(
                table.name,
                table.info["purpose"],
                {name: f"{told.purpose} ({told.retention})" for name, told in declarations(table).items()},
                [_shown(table, row) for row in session.execute(select(table).where(rows_about(table, accounts)))],
            )
            for table in reversed(tables_about_people())
        ]
    return Export(clock.now(), stored)


def _shown(table: Table, row: AnyRow) -> dict[str, Any]:
    told, values = declarations(table), row._mapping  # noqa: SLF001 - how a row is read by its names
    return {
        column.name: f"not shown: {told[column.name].withheld}"
        if told[column.name].withheld and values[column] is not None
        else _plain(values[column])
        for column in table.columns
    }


def _plain(value: object) -> object:
    match value:
        case datetime():
            return clock.rfc3339(value)
        case uuid.UUID() | date():
            return str(value)
        case _:
            return value
