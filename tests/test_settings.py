"""Settings from the environment and from config.toml: an invalid one is named with advice."""

from pathlib import Path

import pytest
from server_process import environment

from backend import create_app
from backend.config import SettingsError, load

WRONG: list[tuple[dict[str, object], str]] = [
    ({"mail_port": "abc"}, "TILES_MAIL_PORT: .*integer"),
    ({"password_min_length": 3}, "TILES_PASSWORD_MIN_LENGTH: .*greater than or equal to 8"),
    ({"public_url": "foo"}, "TILES_PUBLIC_URL: write .*https://"),
    ({"database_url": "mysql://x/y"}, "TILES_DATABASE_URL: write .*postgresql://"),
    ({"database_url": "sqlite:///file:tiles.db?uri=true"}, "TILES_DATABASE_URL: write .*sqlite:///"),
    ({"database_url": "sqlite:///:memory:"}, "TILES_DATABASE_URL: write .*sqlite:///"),
    ({"database_url": "sqlite:////srv/what?/tiles.sqlite3"}, r"TILES_DATABASE_URL: write \? as %3F"),
    ({"database_url": "sqlite:///tiles.sqlite3?timeout=77"}, "TILES_DATABASE_URL: .*takes no options"),
    ({"database_url": "postgresql://u:marmalade@127.0.0.1:port/x"}, "TILES_DATABASE_URL: write .*postgresql://"),
    ({"secret_keys": "marmalade"}, "TILES_SECRET_KEYS: write .*32"),
    ({"rate_limits": "nonsense"}, "TILES_RATE_LIMITS: name one of request/client"),
    ({"rate_limits": "sign-in/client=lots"}, "TILES_RATE_LIMITS: write .*10/5 minutes"),
    ({"mail_use_tls": 1, "mail_use_ssl": 1}, "TILES_MAIL_USE_TLS, TILES_MAIL_USE_SSL: set one"),
    ({"redis_url": "http://x"}, "TILES_REDIS_URL: write .*redis://"),
    ({"redis_url": "redis://127.0.0.1:port/0"}, "TILES_REDIS_URL: write .*redis://"),
    ({"argon2_memory_kib": 8, "argon2_parallelism": 4}, "TILES_ARGON2_MEMORY_KIB"),
    ({"support_email": "nobody"}, "TILES_SUPPORT_EMAIL: write an email address"),
]


@pytest.mark.parametrize(("settings", "advice"), WRONG, ids=["+".join(settings) for settings, _ in WRONG])
def test_an_invalid_setting_is_named_with_advice(tmp_path: Path, settings: dict[str, object], advice: str) -> None:
    with pytest.raises(SettingsError, match=advice) as refused:
        create_app(load(environment(tmp_path, **settings)))
    assert "marmalade" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"public_url = ", "config.toml: cannot be read as TOML; write lines such as"),
        (b'support_email = "\xe9"', "config.toml: cannot be read as TOML"),
        (b'colour = "red"', "TILES_COLOUR: not a setting"),
        (b'publc_url = "https://x.example"', "did you mean TILES_PUBLIC_URL"),
        (b'mail_port = "abc"', "TILES_MAIL_PORT: .*integer"),
    ],
    ids=["broken", "not UTF-8", "unknown", "misspelt", "wrong value"],
)
def test_an_invalid_configuration_file_is_named_with_advice(tmp_path: Path, content: bytes, advice: str) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(SettingsError, match=advice):
        load(environment(tmp_path))


@pytest.mark.parametrize("line_break", ["\n", "\r\n"], ids=["unix", "windows"])
def test_the_environment_overrides_the_configuration_file(tmp_path: Path, line_break: str) -> None:
    lines = ["\ufeffsupport_email = 'file@example.org'", "public_url = 'https://file.example.org'", ""]
    (tmp_path / "config.toml").write_bytes(line_break.join(lines).encode())
    settings = load(environment(tmp_path, public_url="", support_email="environment@example.org"))
    assert (settings.support_email, settings.public_url) == ("environment@example.org", "https://file.example.org")
    assert load(environment(tmp_path)).support_email == "file@example.org"


@pytest.mark.parametrize(
    ("written", "origin"),
    [
        ("https://Accounts.Example.org:443/", "https://accounts.example.org"),
        ("HTTP://127.0.0.1:80", "http://127.0.0.1"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_the_public_url_is_the_origin_that_a_browser_sends(tmp_path: Path, written: str, origin: str) -> None:
    assert load(environment(tmp_path, public_url=written)).public_url == origin
