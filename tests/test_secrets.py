"""No secret is in the repository, and git ignores the secrets of an instance."""

import base64
import hashlib
import math
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Recognisable secrets: private keys, tokens of services that developers use, and our own.
TELLING = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|\bAKIA[0-9A-Z]{16}\b"
    r"|\b(gh[opsu]_|github_pat_|glpat-|xox[abp]-|npm_|pypi-|sk_live_)\w{20}"
    r"|\btiles_[\w-]{43}|\b[\w-]{20,}\.[\w-]{6}\.[\w-]{43}\b|\$argon2id\$v=\d+\$[\w=,]+\$[\w+/]{22}\$[\w+/]{43}"
    r"|://[^/\s:@\"'{}]*:(?!(password|marmalade|hidden)@)[^/\s:@\"'{}]+@"
)
WORD = re.compile(r"[A-Za-z0-9+/_-]{20,}")
HASH = re.compile(r'--hash=sha256:[0-9a-f]{64}|"integrity": "sha512-[\w+/]{86}=="')
# Bits of a character; prose and names have less, random base64 and random hexadecimals of this length more.
BASE64_ENTROPY, HEX_ENTROPY = 4.3, 3.0


def entropy(word: str) -> float:
    return -sum(count / len(word) * math.log2(count / len(word)) for count in Counter(word).values())


def is_random(word: str) -> bool:
    if re.fullmatch(r"[0-9a-f]{32,}|[0-9A-F]{32,}", word):
        return entropy(word) > HEX_ENTROPY
    return all(re.search(kind, word) for kind in ("[a-z]", "[A-Z]")) and entropy(word) > BASE64_ENTROPY


def suspicions(text: str) -> Iterator[str]:
    """Return the lines of a text that may hold a secret."""
    for line in text.splitlines():
        words = WORD.findall(HASH.sub("", line))
        if TELLING.search(line) or any(map(is_random, words)):
            yield line.strip()


def git(*arguments: str, stdin: str = "") -> list[str]:
    """Return the paths that git lists."""
    done = subprocess.run(
        ["git", *arguments, "-z"], cwd=ROOT, input=stdin, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.split("\0")[:-1]


def test_no_secret_is_in_the_repository() -> None:
    files = [ROOT / name for name in git("ls-files", "--cached", "--others", "--exclude-standard")]
    texts = {path: path.read_text("utf-8") for path in files if path.is_file() and path.suffix not in {".gz", ".png"}}
    assert len(texts) > 100
    assert [f"{path.name}: {line}" for path, text in texts.items() for line in suspicions(text)] == []


def random_bytes(number: int) -> bytes:
    """Return bytes that look random and are the same in every run."""
    return hashlib.sha256(str(number).encode()).digest()


def words(number: int) -> str:
    return base64.urlsafe_b64encode(random_bytes(number)).decode().rstrip("=")


PLANTED: dict[str, Callable[[int], str]] = {
    "a private key": lambda _: "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
    "a key as openssl makes it": lambda number: f'TILES_SECRET_KEYS = "{random_bytes(number).hex()}"',
    "a key as the instance makes it": words,
    "bytes in base64": lambda number: base64.b64encode(random_bytes(number)).decode(),
    "a session": lambda number: f"Authorization: Bearer tiles_{words(number)}",
    "a mailed token": lambda number: f"{words(1).lower()}.awSdKw.{words(number).lower()}",
    "a hash of a password": lambda number: (
        f"$argon2id$v=19$m=19456,t=2,p=1${'a' * 22}${random_bytes(number).hex()[:43]}"
    ),
    "a password of a database": lambda _: "postgresql://tiles:" + "hunter2@db.example.org/tiles",
    "a token of a forge": lambda _: "ghp_" + "a" * 36,
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_secret_is_found(kind: str) -> None:
    for number in range(1000):
        planted = PLANTED[kind](number)
        assert list(suspicions(f"something else\n  {planted}\n")) == [planted]


NO_SECRETS = ["requirements", "a_name_of_a_function_that_is_long", "test_a_link_works_once/And/Again",
              "`TILES_ARGON2_MEMORY_KIB`", "/static/style.css?version=2026-01-01", "postgresql://user:password@host/name",
              f"    --hash=sha256:{random_bytes(1).hex()} \\"]  # fmt: skip


def test_ordinary_text_is_not_taken_for_a_secret() -> None:
    assert list(suspicions("\n".join(NO_SECRETS))) == []


def test_files_of_an_instance_are_ignored_by_git_in_any_folder() -> None:
    secrets = ["secret_key", ".secret_key.next", "config.toml", "erasures.jsonl", "tiles.sqlite3", "tiles.sqlite3-wal",
            "tiles.sqlite3-shm", "mailbox/new/1"]  # fmt: skip
    paths = [f"{folder}{name}" for folder in ("instance/", "elsewhere/", "") for name in secrets]
    paths += [".env", "server.key", "authority.pem"]
    assert git("check-ignore", "--no-index", "--stdin", stdin="\0".join(paths)) == paths
    assert git("ls-files", "--ignored", "--cached", "--exclude-standard") == []
