"""The receipt of an erasure: signed, checkable by whoever has it, and naming nobody."""

import base64
import json
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
    closed_by,
    confirm_erasure,
    erase_due,
    hold,
    moment,
    post,
    receipt_of,
    the_mail,
)
from support import Service, any_database, assert_problem, html_of
from werkzeug.test import TestResponse

from backend import clock
from backend.desk import operations

ADA = "ada@example.org"


@pytest.fixture
def hasty(make_service: MakeService) -> Service:
    """The service without a grace period."""
    return make_service(erasure_grace_days=0)


@pytest.fixture
def receipt(hasty: Service) -> str:
    """The receipt of somebody who had another address, sent feedback twice, and whose data were disclosed."""
    ada = hasty.register(email="countess@example.org")
    change_email(hasty, ada.headers, ADA)
    for message in ("More tiles.", "Fewer tiles."):
        hasty.http.post("/v1/feedback", json={"message": message}, headers=ada.headers)
    with hasty.app.app_context():
        operations.disclose(ADA, authority="Amtsgericht", basis="Court order 12 of 2026")
    close(hasty, ada.headers, erase=True)
    hasty.deliver()
    assert erase_due(hasty) == 1
    return receipt_of(the_mail(hasty.deliver(), ADA, ERASED))


def verify(service: Service, receipt: str) -> TestResponse:
    return post(service, "erasure-receipts/verify", receipt=receipt)


def payload_of(receipt: str) -> str:
    """Return what is signed, as everybody can read it."""
    part = receipt.lstrip(".").split(".")[0]
    raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    return (zlib.decompress(raw) if receipt.startswith(".") else raw).decode()


def test_a_receipt_says_per_store_what_was_removed_and_what_is_kept_on_which_basis(
    hasty: Service, receipt: str
) -> None:
    response = verify(hasty, receipt)
    assert response.status_code == 200
    assert set(response.json) == {"account", "requested_at", "erased_at", "removed", "kept"}
    removed = {entry["store"]: entry["rows"] for entry in response.json["removed"]}
    assert removed == {"accounts": 1, "sessions": 0, "feedback": 2, "holds": 0, "mails": 0, "previous_addresses": 1}
    kept = {entry["store"]: entry["rows"] for entry in response.json["kept"]}
    assert kept == {"audit": len(hasty.rows("audit")), "disclosures": 1, "ledger": 1}
    assert all("GDPR" in entry["basis"] for entry in response.json["kept"])
    assert moment(response.json["requested_at"]) <= moment(response.json["erased_at"]) <= clock.now()


@any_database
def test_the_account_in_a_receipt_is_that_of_the_ledger(hasty: Service) -> None:
    ada = hasty.register()
    id_ = account_id(hasty, ADA)
    close(hasty, ada.headers, erase=True)
    erase_due(hasty)
    found = verify(hasty, receipt_of(the_mail(hasty.deliver(), ADA, ERASED))).json
    assert found["account"] == str(id_)


@any_database
def test_a_receipt_names_nobody(hasty: Service, receipt: str) -> None:
    for text in (payload_of(receipt), verify(hasty, receipt).text):
        for word in ("ada", "lovelace", "countess", "example.org", 'tiles."', "amtsgericht", "court"):
            assert word not in text.lower()
    assert set(json.loads(payload_of(receipt))) == {"account", "requested_at", "erased_at", "removed", "kept"}


@any_database
def test_a_receipt_is_good_again_and_again_and_with_the_line_breaks_of_a_mail(hasty: Service, receipt: str) -> None:
    folded = "\r\n".join(receipt[start : start + 60] for start in range(0, len(receipt), 60))
    for given in (receipt, receipt, f"  {folded}\n"):
        assert verify(hasty, given).status_code == 200


@any_database
def test_a_receipt_stands_in_both_parts_of_the_mail(hasty: Service, receipt: str) -> None:
    assert receipt in html_of(hasty.mail_server.messages[-1])


@any_database
def test_one_altered_byte_of_payload_makes_it_none(hasty: Service, receipt: str) -> None:
    payload, _time, _signature = receipt.rsplit(".", 2)
    for place in range(len(payload)):
        other = "A" if receipt[place] != "A" else "B"
        altered = f"{receipt[:place]}{other}{receipt[place + 1 :]}"
        assert_problem(verify(hasty, altered), 400, "invalid-token")


@any_database
def test_a_receipt_whose_numbers_were_changed_is_none(hasty: Service, receipt: str) -> None:
    content = json.loads(payload_of(receipt))
    content["removed"][0]["rows"] += 1
    forged = base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).rstrip(b"=").decode()
    _payload, time, signature = receipt.rsplit(".", 2)
    assert_problem(verify(hasty, f"{forged}.{time}.{signature}"), 400, "invalid-token")


@any_database
def test_no_link_is_a_receipt_and_a_receipt_is_no_link(service: Service) -> None:
    ada = service.register()
    tokens = [ada.token, service.ask_for_reset(), ask_for_erasure(service, ADA)]
    tokens.append(closed_by(service, ada.headers, ADA))
    for token in tokens:
        assert_problem(verify(service, token), 400, "invalid-token")


@any_database
def test_a_receipt_confirms_and_cancels_nothing(hasty: Service, receipt: str) -> None:
    for path in ("erasure-requests/confirm", "erasure-requests/cancel", "email-changes/confirm", "email-changes/undo"):
        assert_problem(post(hasty, path, token=receipt), 400, "invalid-token")
    assert hasty.http.post(f"/unsubscribe/{receipt}").status_code == 400


@any_database
def test_a_receipt_stays_good_when_a_newer_key_signs(hasty: Service, receipt: str, make_service: MakeService) -> None:
    old = "a key of the tests and of nobody else"
    newer = make_service(secret_keys=f"{'n' * 40},{old}")
    assert verify(newer, receipt).status_code == 200
    assert_problem(verify(make_service(secret_keys="n" * 40), receipt), 400, "invalid-token")
    assert verify(hasty, receipt).status_code == 200


def test_of_an_account_whose_time_was_over_nobody_asked(make_service: MakeService, move_clock: MoveClock) -> None:
    service = make_service(closed_retention_days=1)
    close(service, service.register().headers)
    service.deliver()
    move_clock(timedelta(days=1, minutes=1))
    assert erase_due(service) == 1
    found = verify(service, receipt_of(the_mail(service.deliver(), ADA, ERASED))).json
    assert found["requested_at"] is None


def test_a_receipt_counts_ended_holds_and_waiting_mails_among_what_was_removed(
    hasty: Service, move_clock: MoveClock
) -> None:
    ada = hasty.register()
    hold(hasty, ADA, clock.now() + timedelta(days=1))
    assert confirm_erasure(hasty, ask_for_erasure(hasty, ADA)).status_code == 200
    assert hasty.account(ada.headers).status_code == 401
    move_clock(timedelta(days=1, minutes=1))
    assert erase_due(hasty) == 1
    found = verify(hasty, receipt_of(the_mail(hasty.deliver(), ADA, ERASED))).json
    removed = {entry["store"]: entry["rows"] for entry in found["removed"]}
    assert (removed["holds"], removed["mails"]) == (1, 1)
