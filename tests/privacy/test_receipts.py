"""The receipt of an erasure: signed, verifiable by anyone who has it, and without a name."""

import base64
import json
import re
import zlib
from datetime import timedelta

import pytest
from journeys import (
    ERASED,
    MakeService,
    MoveClock,
    account_id,
    ask_for_erasure,
    change_email,
    close,
    confirm_erasure,
    erase_due,
    hold,
    in_ledger,
    moment,
    post,
    receipt_of,
    the_mail,
)
from peers import html_of
from support import Service, any_database, assert_problem
from werkzeug.test import TestResponse

from backend import clock
from backend.desk import disclosures

ADA = "ada@example.org"


def erased(service: Service) -> str:
    """Erase the one due account, and return its receipt from the email."""
    service.deliver()
    assert erase_due(service) == 1
    return receipt_of(the_mail(service.deliver(), ADA, ERASED))


@pytest.fixture
def receipt(hasty: Service) -> str:
    """The receipt of a person with an earlier address, two messages of feedback and a disclosure."""
    ada = hasty.register(email="countess@example.org")
    change_email(hasty, ada.headers, ADA)
    for message in ("More tiles.", "Fewer tiles."):
        hasty.http.post("/v1/feedback", json={"message": message}, headers=ada.headers)
    hasty.run(disclosures.disclose, ADA, authority="Amtsgericht", basis="Court order 12 of 2026")
    close(hasty, ada.headers, erase=True)
    return erased(hasty)


def verify(service: Service, receipt: str) -> TestResponse:
    return post(service, "erasure-receipts/verify", receipt=receipt)


def payload_of(receipt: str) -> str:
    """Return the signed content, which anyone can read."""
    part = receipt.lstrip(".").split(".")[0]
    raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    return (zlib.decompress(raw) if receipt.startswith(".") else raw).decode()


def test_a_receipt_says_per_store_what_was_removed_and_what_is_kept_on_which_basis(
    hasty: Service, receipt: str
) -> None:
    response = verify(hasty, receipt)
    assert response.status_code == 200
    assert set(response.json) == {"account", "requested_at", "erased_at", "removed", "kept"}
    assert response.json["account"] == str(in_ledger(hasty)[0])
    removed = {entry["store"]: entry["rows"] for entry in response.json["removed"]}
    assert removed == {
        "accounts": 1,
        "sessions": 0,
        "feedback": 2,
        "holds": 0,
        "mails": 0,
        "previous_addresses": 1,
        "replies": 0,
    }
    kept = {entry["store"]: entry["rows"] for entry in response.json["kept"]}
    assert kept == {"audit": len(hasty.rows("audit")), "disclosures": 1, "ledger": 1}
    assert all("GDPR" in entry["basis"] for entry in response.json["kept"])
    assert moment(response.json["requested_at"]) <= moment(response.json["erased_at"]) <= clock.now()
    assert receipt in html_of(hasty.mail_server.messages[-1])
    for text in (payload_of(receipt), response.text):
        for word in ("ada", "lovelace", "countess", "example.org", 'tiles."', "amtsgericht", "court"):
            assert not re.search(rf"(?<![\w-]){re.escape(word)}", text.lower())
    assert json.loads(payload_of(receipt)).keys() == response.json.keys()


def test_a_receipt_counts_ended_holds_and_waiting_emails_among_what_was_removed(
    hasty: Service, move_clock: MoveClock
) -> None:
    hasty.register()
    hold(hasty, ADA, clock.now() + timedelta(days=1))
    assert confirm_erasure(hasty, ask_for_erasure(hasty, ADA)).status_code == 200
    id_ = account_id(hasty, ADA)
    move_clock(timedelta(days=1, minutes=1))
    assert erase_due(hasty) == 1
    content = verify(hasty, receipt_of(the_mail(hasty.deliver(), ADA, ERASED))).json
    assert content["account"] == str(id_)
    removed = {entry["store"]: entry["rows"] for entry in content["removed"]}
    assert (removed["holds"], removed["mails"]) == (1, 1)


@any_database
def test_the_receipt_after_the_retention_says_that_nobody_requested_the_erasure(
    make_service: MakeService, move_clock: MoveClock
) -> None:
    service = make_service(closed_retention_days=1)
    close(service, service.register().headers)
    move_clock(timedelta(days=1, minutes=1))
    assert verify(service, erased(service)).json["requested_at"] is None


@any_database
def test_a_receipt_stays_valid_with_the_line_breaks_of_an_email_and_under_a_newer_key(
    hasty: Service, receipt: str, make_service: MakeService
) -> None:
    folded = "\r\n".join(receipt[start : start + 60] for start in range(0, len(receipt), 60))
    for spelling in (receipt, receipt, f"  {folded}\n"):
        assert verify(hasty, spelling).status_code == 200
    old = "a key of the tests and of nobody else"
    assert verify(make_service(secret_keys=f"{'n' * 40},{old}"), receipt).status_code == 200
    assert_problem(verify(make_service(secret_keys="n" * 40), receipt), 400, "invalid-token")


@any_database
def test_an_altered_receipt_is_refused(hasty: Service, receipt: str) -> None:
    payload, time, signature = receipt.rsplit(".", 2)
    content = json.loads(payload_of(receipt))
    content["removed"][0]["rows"] += 1
    forged = base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).rstrip(b"=").decode()
    altered = [f"{forged}.{time}.{signature}"]
    for place in range(len(payload)):
        other = "A" if receipt[place] != "A" else "B"
        altered.append(f"{receipt[:place]}{other}{receipt[place + 1 :]}")
    for text in altered:
        assert_problem(verify(hasty, text), 400, "invalid-token")
