"""Generated names, addresses and passwords: the accepted ones are safe wherever they go."""

import unicodedata
from collections.abc import Callable
from contextlib import suppress
from email.utils import parseaddr
from itertools import count as count_up
from uuid import uuid4

import pytest
from email_validator import validate_email
from generating import Count, amount
from hypothesis import example, given, settings
from hypothesis import strategies as st
from journeys import post
from peers import MailServer, html_of, text_of, token_of
from support import PASSWORD, Service, any_database

from backend.accounts import fields
from backend.accounts.fields import clean_email, clean_name
from backend.security import tokens
from backend.security.tokens import Purpose

HEADERS_OF_A_MAIL = ["Auto-Submitted", "Content-Type", "Date", "From", "MIME-Version", "Message-ID", "Subject", "To"]
ATOM = "abcxyzABCXYZ0189!#$%&'*+-/=?^_`{|}~"
CONTROLS = "\0\t\n\r\x0b\x1b\x7f\x85\u200b\u200e\u2028\u2029\u202a\u202e\u2066\u2069\ufeff"
HEADERS = [
    "\r\nBcc: eve@example.org",
    "\nSubject: x",
    "\r\n\r\n",
    "\r\n.\r\n",
    "=?utf-8?q?=0A?=",
    ",eve@example.org",
    ">",
]
NUMBERS = count_up()
many = settings(max_examples=amount(200))
few = settings(max_examples=amount(8))

local = st.lists(st.text(ATOM, min_size=1, max_size=12), min_size=1, max_size=3).map(".".join)
label = st.text("abcxyzABC0189-\xfc\xdf\u03a3\u4f8b\u0430\u0130\u017f\u212a", min_size=1, max_size=12)
domain = st.lists(label, min_size=1, max_size=3).map(lambda labels: ".".join([*labels, "example"]))
plain = st.builds("{}@{}".format, local, st.sampled_from(["example.org", "b\xfccher.example"]))
right = st.builds("{}@{}".format, local, domain) | st.emails()
odd = st.sampled_from([*CONTROLS, *HEADERS]) | st.characters()
spoilt = st.builds(lambda text, at, new: text[: at % (len(text) + 1)] + new + text[at % (len(text) + 1) :],
                   right, st.integers(0, 80), odd)  # fmt: skip
words = st.text(st.characters() | st.sampled_from("aA e\u0301\u0308\u200d\u1161" + CONTROLS), max_size=30)


@pytest.fixture
def counted(service: Service, count: Count) -> Service:
    count(service.app)
    return service


def hides_or_breaks(text: str) -> bool:
    """Return whether a text has a character that ends a line, hides, or changes the direction of others."""
    return any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text) or any(
        unicodedata.bidirectional(character) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
        for character in text
    )


# Addresses


@many
@given(text=right | spoilt | words)
@example(text="ada@example.org\r\nBcc: eve@example.org")
def test_an_accepted_address_is_one_address_and_one_line(text: str) -> None:
    with suppress(ValueError):
        cleaned = clean_email(text)
        assert clean_email(cleaned) == cleaned
        assert len(cleaned) <= 254
        assert not hides_or_breaks(cleaned)
        assert not set(cleaned) & set(' ()<>[]:;\\,"')
        assert cleaned.count("@") == 1
        assert cleaned.partition("@")[0].isascii()
        assert parseaddr(cleaned) == ("", cleaned)


def outcome(clean: Callable[[str], str], text: str) -> str | None:
    with suppress(ValueError):
        return clean(text)
    return None


@many
@given(text=right | spoilt | plain)
@example(text="Postmaster@example.org")
@example(text="a" * 64 + "@example.org")
@example(text="a" * 65 + "@example.org")
@example(text="a@" + "b" * 63 + ".org")
@example(text="a@" + "b" * 64 + ".org")
@example(text="a@" + ".".join(["b" * 50] * 5))
@example(text="ada@xn--bcher-kva.example")
@example(text="ada@EXAMPLE.ORG")
@example(text="ada@example.local")
@example(text="ada@192.0.2.1")
def test_the_short_cut_for_plain_addresses_agrees_with_the_library(text: str) -> None:
    assert outcome(clean_email, text) == outcome(fields.parsed_email, text.strip().replace("\uff20", "@"))


@many
@given(text=right, ordinary=plain)
def test_an_ordinary_address_is_accepted_and_case_makes_no_other_address(text: str, ordinary: str) -> None:
    assert clean_email(ordinary).lower() == ordinary.lower()
    swapped = "".join(letter.swapcase() if letter.isascii() else letter for letter in text)
    with suppress(ValueError):
        assert clean_email(swapped).lower() == clean_email(text).lower()


@few
@given(people=st.lists(st.tuples(words, plain | right | spoilt), min_size=1, max_size=4))
def test_no_name_or_address_adds_a_header_or_a_line_to_a_mail(
    counted: Service, mail_server: MailServer, people: list[tuple[str, str]]
) -> None:
    mail_server.messages.clear()
    mail_server.envelopes.clear()
    accepted = []
    for typed, given_email in people:
        # No account has it yet.
        name, email = f"Nemoquill {typed}", f"{next(NUMBERS)}{given_email}"
        if post(counted, "registrations", name=name, email=email).status_code == 202:
            accepted.append((clean_name(name), validate_email(clean_email(email), check_deliverability=False)))
    counted.deliver()
    reached = {
        envelope.rcpt_tos[0]: message
        for envelope, message in zip(mail_server.envelopes, mail_server.messages, strict=True)
    }
    assert reached.keys() == {address.ascii_email for _, address in accepted}
    assert all(len(envelope.rcpt_tos) == 1 for envelope in mail_server.envelopes)
    for to, message in reached.items():
        assert [address.addr_spec for address in message["To"].addresses] == [to]
        assert sorted(message.keys()) == HEADERS_OF_A_MAIL
        assert message.defects == []
        assert "Nemoquill" not in f"{message.items()}{text_of(message)}{html_of(message)}"
        account = counted.confirm(token_of(message), PASSWORD).json["account"]
        assert (account["name"], account["email"]) in {(name, address.normalized) for name, address in accepted}


# Names


@many
@given(text=words)
def test_an_accepted_name_is_one_visible_line(text: str) -> None:
    with suppress(ValueError):
        cleaned = clean_name(text)
        assert clean_name(cleaned) == cleaned == unicodedata.normalize("NFC", cleaned).strip()
        assert 1 <= len(cleaned) <= 200
        assert not hides_or_breaks(cleaned)
        assert any(unicodedata.category(character)[0] in "LNPS" for character in cleaned)


# Passwords


@any_database
@pytest.mark.long
@few
@given(
    passwords=st.lists(
        st.text(min_size=12, max_size=40) | st.text("ae\u0301\ufb01\u212b\uac00 z", min_size=15), max_size=4
    )
)
def test_an_accepted_password_signs_in_in_every_spelling_and_no_other_does(
    counted: Service, passwords: list[str]
) -> None:
    for password in passwords:
        email = f"ada{uuid4().hex}@example.org"
        with counted.app.app_context():
            content = {"account": str(uuid4()), "name": "Ada", "email": email}
            token = tokens.issue(Purpose.REGISTRATION, content)
        response = counted.confirm(token, password)
        if response.status_code == 422:
            assert response.json["code"] in {"weak-password", "invalid-request"}
            continue
        assert response.status_code == 201
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            assert counted.sign_in(email, unicodedata.normalize(form, password)).status_code == 201
        for other in (password + "x", password[:-1], f" {password}"):
            assert counted.sign_in(email, other).status_code in {401, 422}
