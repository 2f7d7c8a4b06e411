"""The data manager's operations on feedback: each is audited, and replies are sent once and erased."""

import uuid
from datetime import timedelta

import pytest
from journeys import MoveClock, account_id, close, erase_due, hold, refusals
from peers import html_of, text_of, token_of
from support import NOBODY, Person, Service, invoke

from backend import clock
from backend.accounts import audit
from backend.desk import feedback
from backend.errors import Impossible

A_DAY = timedelta(days=1)
NOWHERE = uuid.UUID(NOBODY)


def send(service: Service, message: str = "More tiles.", person: Person | None = None) -> uuid.UUID:
    headers = person.headers if person else None
    response = service.http.post("/v1/feedback", json={"message": message}, headers=headers)
    assert response.status_code == 201, response.text
    return uuid.UUID(response.json["id"])


def stored(service: Service, feedback_id: uuid.UUID) -> feedback.Message:
    return service.run(feedback.read, feedback_id)


def acts(service: Service) -> list[tuple[str, uuid.UUID | None, dict[str, object]]]:
    """Return the audit entries about feedback, the oldest first."""
    with service.app.app_context():
        entries = reversed(audit.entries())
    return [(entry.act, entry.account_id, entry.details) for entry in entries if entry.act.startswith("feedback")]


def test_every_reading_and_every_act_is_in_the_audit_once(service: Service, ada: Person) -> None:
    feedback_id, mine = send(service, person=ada), account_id(service, ada.email)
    stored(service, feedback_id)
    service.run(feedback.page)
    invoke(service, "feedback", "list")
    invoke(service, "feedback", "export")
    for act in (feedback.finish, feedback.reopen):
        service.run(act, feedback_id)
    service.run(feedback.reply, feedback_id, message="Thank you.", after=0)
    service.run(feedback.remove, feedback_id)
    assert acts(service) == [
        ("feedback-read", mine, {"messages": 1}),
        ("feedback-read", None, {"messages": 1}),
        ("feedback-read", None, {"messages": 1}),
        ("feedback-exported", None, {"messages": 1}),
        ("feedback-done", mine, {}),
        ("feedback-reopened", mine, {}),
        ("feedback-answered", mine, {}),
        ("feedback-deleted", mine, {}),
    ]


def test_the_writer_gets_a_reply_by_email_that_repeats_nothing_and_unsubscribes(service: Service, ada: Person) -> None:
    feedback_id = send(service, "Kilimanjaro", ada)
    sent_on = clock.now().date()
    service.run(feedback.reply, feedback_id, message="Yes,\nsoon.\n\nSee <b>https://tiles.example/news</b>", after=0)
    (row,) = service.rows("mails")
    assert "soon" not in str(row)
    message = service.mail()
    assert (message["To"], message["Subject"]) == (ada.email, "Our reply to your message about TILES")
    assert f"On {sent_on.day} {sent_on:%B %Y} you sent us a message" in text_of(message)
    assert "\n\nYes,\nsoon.\n\nSee <b>https://tiles.example/news</b>\n\n" in text_of(message)
    assert "Yes,<br>soon.</p>" in html_of(message)
    assert "&lt;b&gt;" in html_of(message)
    assert "kilimanjaro" not in str(message).lower()
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    address = str(message["List-Unsubscribe"]).strip("<>")
    assert address in text_of(message)
    assert service.http.post(address.removeprefix("https://accounts.tiles.test")).status_code == 200
    assert not stored(service, feedback_id).may_reply
    assert [reply.message for reply in stored(service, feedback_id).replies] == [
        "Yes,\nsoon.\n\nSee <b>https://tiles.example/news</b>"
    ]


def test_nobody_gets_a_reply_without_an_open_account_that_wants_emails(service: Service, ada: Person) -> None:
    bob = service.register(email="bob@example.org")
    unwanted, closed, anonymous = send(service, person=ada), send(service, person=bob), send(service)
    service.http.patch("/v1/account", json={"email_updates": False}, headers=ada.headers)
    close(service, bob.headers)
    service.deliver()
    for feedback_id in (unwanted, closed, anonymous):
        assert not stored(service, feedback_id).may_reply
        with pytest.raises(Impossible, match="no open account that wants emails about TILES: nothing was sent"):
            service.run(feedback.reply, feedback_id, message="Thank you.", after=0)
    assert (service.rows("replies"), service.deliver()) == ([], [])


@pytest.mark.parametrize("act", ["unsubscribe", "delete", "close"])
def test_a_reply_that_waits_is_not_sent_when_its_reason_is_gone(service: Service, ada: Person, act: str) -> None:
    feedback_id = send(service, person=ada)
    service.run(feedback.reply, feedback_id, message="Thank you.", after=0)
    match act:
        case "unsubscribe":
            service.http.patch("/v1/account", json={"email_updates": False}, headers=ada.headers)
        case "delete":
            service.run(feedback.remove, feedback_id)
        case _:
            close(service, ada.headers)
    assert "Our reply to your message about TILES" not in [message["Subject"] for message in service.deliver()]
    assert service.rows("mails") == []


def test_a_reply_that_is_sent_twice_or_by_two_managers_is_one_email(service: Service, ada: Person) -> None:
    feedback_id = send(service, person=ada)

    reasons = refusals(lambda: service.run(feedback.reply, feedback_id, message="Thank you.", after=0))
    assert (reasons[0], reasons[1][:28]) == ("", "a reply was sent meanwhile: ")
    assert len(service.deliver()) == 1
    service.run(feedback.reply, feedback_id, message="And one thing more.", after=1)
    assert len(service.deliver()) == 1


def test_a_deleted_message_is_gone_with_its_replies_and_nothing_else(service: Service, ada: Person) -> None:
    feedback_id, other = send(service, person=ada), send(service, person=ada)
    for each in (feedback_id, other):
        service.run(feedback.reply, each, message="Thank you.", after=0)
    service.run(feedback.remove, feedback_id)
    (message,), (reply,) = service.rows("feedback"), service.rows("replies")
    assert uuid.UUID(str(message["id"])) == uuid.UUID(str(reply["feedback_id"])) == other
    for act in (stored, lambda s, i: s.run(feedback.remove, i), lambda s, i: s.run(feedback.finish, i),
                lambda s, i: s.run(feedback.reply, i, message="Thank you.", after=0)):  # fmt: skip
        for unknown in (feedback_id, NOWHERE):
            with pytest.raises(Impossible, match="there is no message with this id"):
                act(service, unknown)


def test_of_two_concurrent_deletions_the_second_is_refused(service: Service) -> None:
    feedback_id = send(service)

    done, refused = refusals(lambda: service.run(feedback.remove, feedback_id))
    assert (done, refused.partition(":")[0]) == ("", "there is no message with this id")
    assert [act for act, *_ in acts(service)] == ["feedback-deleted"]


def test_replies_are_erased_with_the_account(service: Service, ada: Person, move_clock: MoveClock) -> None:
    service.run(feedback.reply, send(service, person=ada), message="Thank you.", after=0)
    close(service, ada.headers, erase=True)
    service.deliver()
    move_clock(15 * A_DAY)
    assert erase_due(service) == 1
    assert service.rows("replies") == service.rows("feedback") == []
    (receipt,) = service.deliver()
    assert "1 reply to feedback" in text_of(receipt)
    assert "replies" in service.http.post(
        "/v1/erasure-receipts/verify", json={"receipt": token_of(receipt)}
    ).text  # fmt: skip


def test_an_account_under_a_hold_can_be_replied_to(service: Service, ada: Person) -> None:
    feedback_id = send(service, person=ada)
    hold(service, ada.email, clock.now() + A_DAY)
    service.run(feedback.reply, feedback_id, message="Thank you.", after=0)
    assert len(service.deliver()) == 1
