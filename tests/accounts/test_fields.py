"""The rules of names, emails and passwords: how input is stored, and what signs in."""

import random
import string
import unicodedata

import pytest
from peers import text_of
from support import OTHER_PASSWORD, Service, any_database, assert_problem

# Names

NAMES = [
    ("Ada", "Ada"),
    ("  Ada  Lovelace ", "Ada  Lovelace"),
    ("\u00a0\u3000Ada\r\n", "Ada"),
    ("A", "A"),
    ("Zoe\u0308 \u212b", "Zo\u00eb \u00c5"),
    ("\u1112\u1161\u11ab", "\ud55c"),
    ("\ufb01 \u2460", "\ufb01 \u2460"),
    ("e\u0301" * 200, "\u00e9" * 200),
    ("\U0001f600" * 200, "\U0001f600" * 200),
    ("\u0958" * 100, "\u0915\u093c" * 100),
    ("  " + "x" * 200 + "  ", "x" * 200),
    ("\U0001f469\u200d\U0001f52c Ada", "\U0001f469\u200d\U0001f52c Ada"),
    ("\u0646\u0645\u06cc\u200c\u062f\u0627\u0646\u0645", "\u0646\u0645\u06cc\u200c\u062f\u0627\u0646\u0645"),
    ("\u200f\u05d0\u05d1", "\u05d0\u05d1"),
    ("\u2068 Ada Lovelace\u2069 \u200e", "Ada Lovelace"),
    ("Robert'); DROP TABLE accounts;--", "Robert'); DROP TABLE accounts;--"),
    ("<b>{{ 7 * 7 }}</b> %s ${x}", "<b>{{ 7 * 7 }}</b> %s ${x}"),
    ("null", "null"),
    ("\U00020bb7\u91ce\u5bb6", "\U00020bb7\u91ce\u5bb6"),
]


def test_a_name_is_stored_trimmed_and_composed_and_otherwise_as_typed(service: Service) -> None:
    for number, (typed, stored) in enumerate(NAMES):
        token = service.ask_to_register(name=typed, email=f"{number}@example.org")
        assert service.confirm(token, OTHER_PASSWORD).json["account"]["name"] == stored
    assert {row["name"] for row in service.rows("accounts")} == {stored for _, stored in NAMES}


def test_a_direction_mark_inside_a_name_is_refused_by_its_number(service: Service) -> None:
    for mark in "\u061c\u200e\u202e\u2069":
        body = {"name": f"Ada {mark}Lovelace", "email": "ada@example.org"}
        (entry,) = assert_problem(service.http.post("/v1/registrations", json=body), 422, "invalid-request")["errors"]
        assert f"direction mark U+{ord(mark):04X} inside" in entry["detail"]


# Emails

LONG = f"{'x' * 64}@{'y' * 63}.{'z' * 63}.{'w' * 57}.org"
EMAILS = {
    "plain": ("ada@example.org", "ada@example.org", "ADA@EXAMPLE.ORG"),
    "capitals": ("Ada.Lovelace@EXAMPLE.org", "Ada.Lovelace@example.org", "ada.lovelace@example.ORG"),
    "plus": ("ada+tiles@example.org", "ada+tiles@example.org", "Ada+Tiles@example.org"),
    "marks": ("o'neil_1-2@example.org", "o'neil_1-2@example.org", "O'NEIL_1-2@example.org"),
    "short": ("a@b.cd", "a@b.cd", "A@B.CD"),
    "international": ("ada@B\u00dcCHER.example", "ada@b\u00fccher.example", "ADA@xn--bcher-kva.EXAMPLE"),
    "punycode": ("bob@xn--bcher-kva.example", "bob@b\u00fccher.example", "bob@bu\u0308cher.example"),
    "full width": ("bob@\uff25xample\u3002org", "bob@example.org", "bob@example.org"),
    "full-width at sign": ("cy\uff20example.org", "cy@example.org", "CY\uff20Example.org"),
    "white space around": (" dee@example.org\r\n", "dee@example.org", "\u3000DEE@example.org"),
    "sharp s": ("ada@fa\u00df.example", "ada@fa\u00df.example", "ada@xn--fa-hia.example"),
    "sigma": ("ada@\u0391\u03a3.example", "ada@\u03b1\u03c3.example", "ada@\u03b1\u03c3.example"),
    "Japanese": ("ada@\u4f8b\u3048.\u30c6\u30b9\u30c8", "ada@\u4f8b\u3048.\u30c6\u30b9\u30c8",
                 "ADA@xn--r8jz45g.xn--zckzah"),
    # International domains contain Cherokee capitals, which databases fold differently.
    "Cherokee": ("ada@\u13e3\u13b3\u13a9.example", "ada@\u13e3\u13b3\u13a9.example",
                 "ADA@\uabb3\uab83\uab79.example"),
    "254 characters": (LONG, LONG, f"{'X' * 64}@{'Y' * 63}.{'z' * 63}.{'w' * 57}.org"),
}  # fmt: skip


def test_an_email_is_stored_as_typed_except_its_domain_and_matches_in_any_case(service: Service) -> None:
    for case, (typed, stored, also) in EMAILS.items():
        service.register(email=typed)
        assert stored in {row["email"] for row in service.rows("accounts")}, case
        for spelling in (typed, stored, also):
            assert service.sign_in(spelling).json["account"]["email"] == stored, case
        service.http.post("/v1/registrations", json={"name": "Eve", "email": also})
        assert "/password-reset#" in text_of(service.mail()), case


@any_database
def test_two_addresses_that_only_look_alike_are_two_people(service: Service) -> None:
    for email in ("ada@example.org", "ada@ex\u0430mple.org", "ad.a@example.org", "ada+1@example.org"):
        service.register(email=email)
    assert len(service.rows("accounts")) == 4


# Passwords


def passphrase(length: int) -> str:
    """Return letters without a pattern."""
    return "".join(random.Random(length).choices(string.ascii_letters, k=length))


# Each is one code point, and they form no sequence.
EMOJI = "🙂🍋🎻🦊🌵🚲🧩🪁🍩🐙🌋🧲🎩🪵🦜🛶"
# 200 code points in NFC, and more than 256 in NFD.
ACCENTS = "".join(random.Random(1).choices("\u00e9\u00f6\u00fb\u00e0n\u00ee\u0161\u0159", k=200))


@any_database
@pytest.mark.parametrize(
    "password",
    [passphrase(15), passphrase(256), EMOJI[:15], "".join(random.Random(1).choices(EMOJI, k=256)),
     "tab\tand\0NUL and\x7fdelete", "\u202equiet lemon gravel", "пять синих домов вдали"],
    ids=["15", "256", "15 emoji", "256 emoji", "controls", "bidi", "Cyrillic"],
)  # fmt: skip
def test_every_character_of_a_password_of_15_to_256_code_points_counts(service: Service, password: str) -> None:
    service.register(password=password)
    assert service.sign_in(password=password).status_code == 201
    assert service.sign_in(password=password[:-1]).status_code == 401


@any_database
def test_spaces_and_case_matter_in_a_password(service: Service) -> None:
    service.register(password=" quiet  lemon gravel ")
    assert service.sign_in(password=" quiet  lemon gravel ").status_code == 201
    for other in ("quiet  lemon gravel", " quiet lemon gravel ", " Quiet  lemon gravel "):
        assert service.sign_in(password=other).status_code == 401


@any_database
def test_a_password_of_14_or_of_257_code_points_is_refused(service: Service) -> None:
    token = service.ask_to_register()
    for password in (passphrase(14), EMOJI[:14], "cafe\u0301 lemon gr", passphrase(257), "\ufdfa" * 15):
        response = service.confirm(token, password)
        assert response.json["code"] in {"invalid-request", "weak-password"}
        assert [entry["pointer"] for entry in response.json["errors"]] == ["/password"]


@any_database
@pytest.mark.parametrize(
    ("chosen", "typed"),
    [
        ("na\u00efve caf\u00e9 \u00e0 la mode", "nai\u0308ve cafe\u0301 a\u0300 la mode"),
        ("quiet lemon gravel piano", "\uff51\uff55\uff49\uff45\uff54 lemon gravel\u3000piano"),
        ("ef\ufb01cient gravel harbour", "efficient gravel harbour"),
        ("quiet\u00a0lemon gravel piano", "quiet lemon gravel piano"),
        ("\u212bngstr\u00f6m gravel piano", "\u00c5ngstro\u0308m gravel piano"),
        (ACCENTS, unicodedata.normalize("NFD", ACCENTS)),
        (unicodedata.normalize("NFD", ACCENTS), ACCENTS),
    ],
    ids=["NFD", "full width", "ligature", "no-break space", "Angstrom", "composed", "decomposed"],
)
def test_a_password_signs_in_in_any_unicode_composition(service: Service, chosen: str, typed: str) -> None:
    service.register(password=chosen)
    assert service.sign_in(password=typed).status_code == 201
