"""The export: everything that is stored about an account, read from the declarations."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Table, and_, func, or_, select

from backend import clock
from backend.database.declarations import Declaration
from backend.database.engine import AnyRow, is_sqlite, reading
from backend.database.inventory import declarations, tables_about_people
from backend.database.models import Account, Mail


@dataclass(frozen=True, slots=True)
class ExportedTable:
    """Every row of a table that is about an account, and the purpose of each column."""

    table: str
    purpose: str
    columns: dict[str, str]
    rows: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class AccountExport:
    """Everything that is stored about an account."""

    exported_at: clock.Moment
    stored: list[ExportedTable]


def export(account_id: uuid.UUID) -> AccountExport:
    """Return everything that is stored about an account; a secret value is replaced by the reason."""
    with reading() as session:
        accounts = session.execute(select(Account.id, Account.email).where(Account.id == account_id)).all()
        stored = []
        for table in reversed(tables_about_people()):
            columns = declarations(table)
            purposes = {name: f"{column.purpose} ({column.retention})" for name, column in columns.items()}
            rows = session.execute(select(table).where(rows_about(table, accounts))).mappings()
            exported = [{name: _exported(row[name], column) for name, column in columns.items()} for row in rows]
            stored.append(ExportedTable(table.name, table.info["purpose"], purposes, exported))
    return AccountExport(clock.now(), stored)


def _exported(value: object, column: Declaration) -> object:
    if column.withheld and value is not None:
        return f"not shown: {column.withheld}"
    return clock.plain(value)


def rows_about(table: Table, accounts: Sequence[AnyRow]) -> ColumnElement[bool]:
    """Return the condition that a row of a table is about one of these accounts (each with its id and email)."""
    ids = [account.id for account in accounts]
    if table is Account.__table__:
        return table.c.id.in_(ids)
    of_accounts: ColumnElement[bool] = table.c.account_id.in_(ids)
    # The id of an account is that of the email with which its registration began. A second one may still wait.
    return or_(of_accounts, table.c.id.in_(ids), is_mail_to(accounts)) if table is Mail.__table__ else of_accounts


def is_mail_to(accounts: Sequence[AnyRow]) -> ColumnElement[bool]:
    """Return the condition that an email goes to the address of one of these accounts, requested without a session.

    It leaves out emails of another account with the same address, receipts, and a new registration since the closing.
    """
    ids, addresses = [account.id for account in accounts], {account.email.lower() for account in accounts}
    with_address = select(Account.id).where(func.lower(Account.email) == func.lower(Mail.email))
    # One after the other, because each has an index of its own.
    others = [
        select(Account.id).where(has_address(Mail.email), Account.id.not_in(ids)).exists()
        for has_address in (Account.is_open_with, Account.is_closed_with)
    ]
    closed_since = with_address.where(Account.id.in_(ids), Account.closed_at > Mail.created_at)
    without_account = Mail.account_id.is_(None)
    return and_(
        # SQLite has no statistics: otherwise it would read all emails without an account, and not look for addresses.
        func.likely(without_account) if is_sqlite() else without_account,
        Mail.kind != "erased",
        (Mail.kind != "registration") | Mail.abandoned_at.is_not(None) | closed_since.exists(),
        func.lower(Mail.email).in_(addresses),
        ~or_(*others),
    )
