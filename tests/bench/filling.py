"""Fill a database by SQL with accounts, and with other rows in proportion to them."""

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

from bench.stage import Stage
from sqlalchemy import Connection, select, text

from backend.database import engine as db
from backend.database.models import AuditEntry
from backend.privacy import ledger

BATCH = 250_000
HASH = f"$argon2id$v=19$m=19456,t=2,p=1${'x' * 22}${'y' * 43}"
# Different for each number, and spread over all possible ids.
_HEX = {"sqlite": "printf('%08x%024x', {n} * 2654435761 % 4294967296, {n})",
        "postgresql": "lpad(to_hex({n} * 2654435761 % 4294967296), 8, '0') || lpad(to_hex({n}), 24, '0')"}  # fmt: skip
_WORDS = {
    "sqlite": {
        "numbers": "WITH RECURSIVE n(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM n WHERE n < :last)",
        "id": _HEX["sqlite"].format(n="n"), "spread": "printf('%08x', n * 2654435761 % 4294967296)",
        "person": _HEX["sqlite"].format(n="(n % :accounts + 1)"),
        "at": "strftime('%Y-%m-%d %H:%M:%f000', 'now', '-' || (n % 3000) || ' seconds')",
        "day": "date('now', (n % 40 - 9) || ' days')", "later": "strftime('%Y-%m-%d %H:%M:%f000', 'now', '9 days')",
        "digest": "randomblob(32)", "json": "'{}'",
    },
    "postgresql": {
        "numbers": "WITH n(n) AS (SELECT generate_series(CAST(:first AS bigint), :last))",
        "id": f"({_HEX['postgresql'].format(n='n')})::uuid",
        "spread": "lpad(to_hex(n * 2654435761 % 4294967296), 8, '0')",
        "person": f"({_HEX['postgresql'].format(n='(n % :accounts + 1)')})::uuid",
        "at": "now() - n % 3000 * interval '1 second'", "day": "current_date + (n % 40 - 9)::int",
        "later": "now() + interval '9 days'", "digest": "sha256(n::text::bytea)", "json": "'{}'::json",
    },
}  # fmt: skip
_ACCOUNT = ("id, name, email, password_hash, credentials_id, email_updates, created_at, closed_at, "
            "erasure_requested_at, erase_after")  # fmt: skip


class Rows(NamedTuple):
    """How many rows of a table there are for each account, and what they hold."""

    table: str
    share: float
    columns: str
    values: str
    after: float = 0
    """The numbers of the rows begin after so many for each account."""


ACCOUNTS = Rows(
    "accounts", 1, _ACCOUNT,
    "{id}, 'p' || {spread} || ' q' || n, {spread} || '.' || n || '@example' || (n % 50) || '.org', :hash, {id}, "
    "true, {at}, CASE WHEN n % 20 = 0 THEN {at} END, CASE WHEN n % 1000 = 0 THEN {at} END, "
    "CASE WHEN n % 1000 = 0 THEN {later} END",
)  # fmt: skip
GROWN = (
    ACCOUNTS,
    Rows("sessions", 0.2, "id, account_id, token_sha256, credentials_id, created_at, last_used_on",
         "{id}, {person}, {digest}, {id}, {at}, current_date"),
    # Nothing else is left of an erased account.
    Rows("audit", 0.04, "id, account_id, act, actor, at, details",
         "{id}, {id}, 'erased', 'service', {at}, {json}", after=1),
    Rows("audit", 1.96, "id, account_id, act, actor, at, details",
         "{id}, {person}, 'name-changed', 'person', {at}, {json}", after=2),
    Rows("mails", 0.2, "id, kind, email, created_at, due_at, attempts",
         "{id}, 'password_reset', 'nobody' || n || '@example.org', {at}, {at}, 0"),
    Rows("feedback", 0.04, "id, account_id, message, received_at",
         "{id}, {person}, 'The plan of the interview is what I needed, ' || n, {at}"),
    Rows("data_requests", 0.002, "id, account_id, kind, way, identity, received_on, due_on, recorded_at",
         "{id}, {person}, 'access', 'email', 'mailbox', current_date, {day}, {at}"),
)  # fmt: skip
INDEXES = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
    "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND to_regclass(indexname) "
    "NOT IN (SELECT conindid FROM pg_constraint)",
}


def steps(accounts: int, tables: tuple[Rows, ...] = GROWN) -> int:
    """Return how many times `fill` ticks."""
    return sum(ceil(round(rows.share * accounts) / BATCH) for rows in tables) + 1


def fill(stage: Stage, accounts: int, tick: Callable[[], object], tables: tuple[Rows, ...] = GROWN) -> None:
    """Store so many accounts, and rows of other tables; the ledger gets a line for each erased account."""
    with stage.app.app_context(), db.autocommit() as connection:
        kind = connection.dialect.name
        if kind == "sqlite":
            connection.exec_driver_sql("PRAGMA cache_size = -1000000")
        indexes = connection.execute(text(INDEXES[kind])).all()
        for name, _ in indexes:
            connection.execute(text(f"DROP INDEX {name}"))
        for rows in tables:
            _insert(connection, rows, accounts, tick)
        for _, statement in indexes:
            connection.exec_driver_sql(statement)
        tick()
        if kind == "postgresql":
            # PostgreSQL does that by itself in the background. SQLite has no statistics.
            connection.exec_driver_sql("ANALYZE")
        erased = connection.execute(select(AuditEntry.account_id, AuditEntry.at).where(AuditEntry.act == "erased"))
        with ledger.opened() as append:
            append(dict(erased.tuples().all()))


def _insert(connection: Connection, rows: Rows, accounts: int, tick: Callable[[], object]) -> None:
    statement = f"INSERT INTO {rows.table} ({rows.columns}) {{numbers}} SELECT {rows.values} FROM n ORDER BY 1"
    statement = statement.format(**_WORDS[connection.dialect.name])
    after = round(rows.after * accounts)
    last = after + round(rows.share * accounts)
    for first in range(after + 1, last + 1, BATCH):
        values = {"first": first, "last": min(first + BATCH - 1, last), "accounts": accounts, "hash": HASH}
        used = {name: value for name, value in values.items() if f":{name}" in statement}
        connection.execute(text(statement), used)
        tick()
