"""Run `tiles backup` and `tiles restore`, and look at the files."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import running
from apps import dispose, make_app, make_settings
from flask import Flask


@contextmanager
def app_in(folder: Path, url: str | None = None) -> Iterator[Flask]:
    app = make_app(make_settings(folder, url or f"sqlite:///{folder / 'tiles.sqlite3'}"))
    try:
        yield app
    finally:
        dispose(app)


def json_of(folder: Path, *arguments: str, url: str | None = None) -> dict[str, Any]:
    with app_in(folder, url) as app:
        return running.json_of(app, *arguments)


def error_of(folder: Path, *arguments: str, status: int = 1, url: str | None = None) -> str:
    with app_in(folder, url) as app:
        return running.error_of(app, *arguments, status=status)


def column(file: Path, table: str, name: str) -> set[str]:
    """Return one column of a database, read without the service."""
    with closing(sqlite3.connect(file)) as connection:
        return {row[0] for row in connection.execute(f"SELECT {name} FROM {table}")}


def drafts(folder: Path) -> list[Path]:
    return list(folder.glob("*.part*"))
