"""The life of the canary, from the registration to the erasure."""

import json
import random
import re
import string
from contextlib import nullcontext
from datetime import UTC, datetime

from canary_walk import LATER, NEVER, Walk
from desk_door import MARY


def register(walk: Walk) -> str:
    """Register with some failures; return the password."""
    person = {"name": f"Old {walk.mark('old name')}", "email": walk.address("old address")}
    for body in (person | {walk.mark("field"): 1}, person | {"email": walk.mark("no address")}, {}, [person["name"]]):
        walk.api("POST", "/v1/registrations", body, status=422)
    walk.stammer(
        f"{walk.mark('no method')} / nothing\r\n",
        f"GET /{walk.mark('no end')} HTTP/1.1\r\nHost: x\r\nA",
        f"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n{walk.mark('cut off')}",
    )
    with walk.refusing(person["email"], LATER):
        walk.api("POST", "/v1/registrations", person, status=202)
    walk.run("mail", "retry", "--json")
    walk.run("mail", "deliver")
    token = walk.token(person["email"], "registration")
    # A second email that is abandoned: its row stays for the operator.
    with walk.refusing(person["email"], NEVER):
        walk.api("POST", "/v1/registrations", person, status=202)
    password, confirm = walk.password(), "/v1/registrations/confirm"
    walk.api("POST", confirm, {"token": token, "password": person["name"] * 2}, status=422)
    walk.api("POST", confirm, {"token": token[:-9] + "A" * 9, "password": password}, status=400)
    walk.api("POST", confirm, {"token": token, "password": password}, status=201)
    walk.api("POST", confirm, {"token": token, "password": password}, status=400)
    walk.page("/registration", 400, token=token, password=password)
    walk.page("/registration/look", token=token)
    walk.page("/registration/again", token=token, email=person["email"])
    walk.token(person["email"], "password-reset")
    walk.api("POST", "/v1/registrations", person, status=202)
    walk.token(person["email"], "password-reset")
    return password


def live(walk: Walk, password: str) -> str:
    """Use an account as people do; return the final password."""
    old = walk.address("old address")
    walk.api("POST", "/v1/sessions", {"email": old, "password": walk.password()}, status=401)
    mine = walk.sign_in(old, password)
    walk.api("PATCH", "/v1/account", {"name": f"Passing {walk.mark('passing name')}"}, status=200, headers=mine)
    walk.api("PATCH", "/v1/account", {"name": walk.mark("bad name") + "\n1"}, status=422, headers=mine)
    walk.api("DELETE", "/v1/account/name", status=200, headers=mine)
    changes = {"name": f"Now {walk.mark('name')}", "email_updates": True, "accepted_policy": "2026-01"}
    walk.api("PATCH", "/v1/account", changes, status=200, headers=mine)
    change = {"current_password": walk.password(), "new_password": walk.password()}
    walk.api("PUT", "/v1/account/password", change, status=403, headers=mine)
    walk.api("PUT", "/v1/account/password", change | {"current_password": password}, status=204, headers=mine)

    walk.api("POST", "/v1/password-resets", {"email": old}, status=202)
    reset = {"token": walk.token(old, "password-reset"), "password": walk.password()}
    walk.api("POST", "/v1/password-resets/confirm", reset | {"password": changes["name"] * 2}, status=422)
    walk.api("POST", "/v1/password-resets/confirm", reset, status=204)
    walk.api("POST", "/v1/password-resets/confirm", reset, status=400)
    # An abandoned reset to an address that the account no longer has when it is erased.
    with walk.refusing(old, NEVER):
        walk.page("/password-reset", email=old)

    mine = walk.sign_in(old, reset["password"])
    listed = walk.api("GET", "/v1/sessions", status=200, headers=mine)["sessions"]
    walk.api("DELETE", f"/v1/sessions/{listed[0]['id']}", status=204, headers=mine)
    walk.api("DELETE", f"/v1/sessions/{listed[0]['id']}", status=401, headers=mine)
    walk.api("DELETE", "/v1/sessions/current", status=204, headers=walk.sign_in(old, reset["password"]))
    walk.api("DELETE", "/v1/sessions", status=204, headers=walk.sign_in(old, reset["password"]))
    return str(reset["password"])


def move(walk: Walk, password: str) -> str:
    """Change the email, undo that, change it again, and request one more change; return the final password."""
    old, passing, new = (walk.address(f"{name} address") for name in ("old", "passing", "new"))
    mine = walk.sign_in(old, password)
    ask = {"email": passing, "password": walk.password()}
    walk.api("POST", "/v1/account/email-changes", ask, status=403, headers=mine)
    walk.api("POST", "/v1/account/email-changes", ask | {"password": password}, status=202, headers=mine)
    proof = {"token": walk.token(passing, "email-change")}
    walk.api("POST", "/v1/email-changes/confirm", proof, status=204)
    walk.api("POST", "/v1/email-changes/confirm", proof, status=400)
    walk.page("/email-change-undo", 400, token=proof["token"])
    walk.page("/email-change-undo/look", token=proof["token"])
    undo = {"token": walk.token(old, "email-change-undo")}
    walk.api("POST", "/v1/email-changes/undo", undo, status=204)
    walk.api("POST", "/v1/email-changes/undo", undo, status=400)
    password = walk.password()
    token = walk.token(old, "password-reset")
    walk.page("/password-reset/look", token=token)
    walk.page("/password-reset/confirm", 422, token=token, password=walk.mark("old address"))
    walk.page("/password-reset/confirm", token=token, password=password)

    mine = walk.sign_in(old, password)
    ask = {"email": new, "password": password}
    walk.api("POST", "/v1/account/email-changes", ask, status=202, headers=mine)
    link = walk.token(new, "email-change")
    for path in ("/email-change/look", "/email-change"):
        walk.page(path, token=link)
    walk.token(old, "email-change-undo")
    never = walk.address("address never confirmed")
    with walk.refusing(never, NEVER):
        walk.api("POST", "/v1/account/email-changes", ask | {"email": never}, status=202, headers=mine)
    return password


def write(walk: Walk, mine: dict[str, str]) -> None:
    """Send feedback; a message without a session belongs to no account and stays."""
    keyed = {"message": f"More tiles, {walk.mark('keyed feedback')}."}
    key = mine | {"Idempotency-Key": walk.mark("key")}
    assert walk.api("POST", "/v1/feedback", keyed, status=201, headers=key) == walk.api(
        "POST", "/v1/feedback", keyed, status=201, headers=key
    )
    walk.api("POST", "/v1/feedback", {"message": walk.mark("refused feedback")}, status=422, headers=key)
    walk.api("POST", "/v1/feedback", {"message": f"Less, {walk.mark('feedback')}."}, status=201, headers=mine)
    # The text is too long for one page, and too random to be compressed.
    long = "".join(random.choices(string.printable[:94], k=3900)) + walk.mark("long feedback")
    walk.api("POST", "/v1/feedback", {"message": long}, status=201, headers=mine)
    walk.api("POST", "/v1/feedback", {"message": "Nobody's."}, status=201)
    walk.api("GET", "/v1/account/export", status=200, headers=mine)


def ask_the_manager(walk: Walk, address: str) -> None:
    """Do everything that a data manager can do with an open account."""
    walk.run("data", "find", address)
    walk.run("data", "find", walk.address("old address"), status=1)
    walk.run("data", "export", address, "--output", str(walk.outside / "export.json"))
    basis = ("--basis", "Order 4 of 2026", "--output", str(walk.outside / "disclosed.json"))
    walk.run("data", "disclose", address, "--authority", f"Police, about Now {walk.mark('name')}", *basis, status=1)
    walk.run("data", "disclose", address, "--authority", "Police", *basis)
    walk.run("data", "hold", address, "--basis", f"about {address}", "--until", "2099-01-01", status=1)
    walk.run("data", "hold", address, "--basis", "Order 4 of 2026", "--until", "2099-01-01", "--json")
    details = ("--kind", "access", "--way", "letter", "--received", f"{datetime.now(UTC):%Y-%m-%d}")
    add = ("data", "requests", "add", address, *details)
    walk.run(*add, "--identity", f"Wrote from {address}", status=1)
    request_id = json.loads(walk.run(*add, "--identity", "Signature", "--json").stdout)["id"]
    walk.run("data", "requests", "extend", request_id, "--reason", "Many letters")
    walk.run("data", "requests", "done", request_id, "--outcome", f"Told Now {walk.mark('name')}", status=1)
    walk.run("data", "requests", "done", request_id, "--outcome", "Sent the copy")
    walk.run("data", "requests", "show", request_id)
    walk.run("data", "requests", "answered")
    walk.run("data", "audit", address)
    walk.run("data", "audit")
    deal_with_feedback(walk, address)
    walk.run("inventory")
    walk.run("db", "upgrade")
    walk.run("keys", "rotate", "--yes", status=1)  # the settings name the keys
    news = walk.outside / "news.txt"
    news.write_text("There are new tiles.")
    walk.run("announce", str(news), "--subject", "News", "--yes")
    walk.page(f"/unsubscribe/{walk.token(address, 'unsubscribe')}")


def deal_with_feedback(walk: Walk, address: str) -> None:
    """Read, export and answer the person's feedback, and delete one message; one reply stays in the queue."""
    walk.run("feedback", "list")
    walk.run("feedback", "export", "--output", str(walk.outside / "feedback.json"))
    messages = json.loads(walk.run("feedback", "list", "--json").stdout)
    ids = {word: row["id"] for row in messages for word in ("More", "Less", "Nobody") if word in row["message"]}
    reply = walk.outside / "reply.txt"
    for state, refusal in (("sent", None), ("waiting", LATER)):
        reply.write_text(f"Thank you, {walk.mark(f'{state} reply')}.")
        with walk.refusing(address, refusal) if refusal else nullcontext():
            walk.run("feedback", "reply", ids["Less"], str(reply), "--yes")
    walk.run("feedback", "show", ids["Less"])
    walk.run("feedback", "done", ids["Less"])
    walk.run("feedback", "reopen", ids["Less"])
    walk.run("feedback", "reply", ids["Nobody"], str(reply), "--yes", status=1)
    walk.run("feedback", "delete", ids["More"], "--yes")


def visit_the_desk(walk: Walk, address: str) -> None:
    """Open the person's pages at the desk, and do each act there that leaves the account unchanged in the end."""
    walk.run("desk", "invite", MARY, "--name", "Mary Somerville")
    walk.run("desk", "list")
    assert walk.http.post("/desk/sign-in", data={"email": MARY}).status_code == 200
    assert walk.http.post("/desk/sign-in/confirm", data={"token": walk.token(MARY, "desk/sign-in")}).is_redirect

    def hidden(page: str, name: str) -> str:
        return re.findall(rf'name="{name}" value="(\w+)"', walk.http.get(page).text)[0]

    form = {"form_token": hidden("/desk/sessions", "form_token")}
    results = walk.http.post("/desk/people", data=form | {"text": address.upper()}).text
    person = re.findall(r'"(/desk/people/[0-9a-f-]{36})"', results)[0]
    basis = {"authority": "Court", "basis": f"about Now {walk.mark('name')}", "until": "2099-01-01", "sure": "yes"}
    mailed = {"change-email": (walk.address("desk address"), "email-change"), "close": (address, "erasure-cancel")}
    for act, fields, status in (
        ("rename", {"name": f"Desk {walk.mark('desk name')}"}, 303),
        ("rename", {"name": f"{walk.mark('bad desk name')}\n1"}, 422),
        ("rename", {"name": f"Now {walk.mark('name')}"}, 303),
        ("change-email", {"email": walk.address("desk address")}, 303),
        ("subscribe", {}, 303),
        ("unsubscribe", {}, 303),
        ("subscribe", {}, 303),
        ("hold", basis, 409),
        ("disclose", {**basis, "name": "yes", "email": "yes"}, 409),
        ("disclose", {**basis, "basis": "Order 5", "name": "yes", "email": "yes"}, 200),
        ("close", {}, 303),
        ("reopen", {}, 303),
    ):
        path = f"{person}/{act}"
        answer = walk.http.post(path, data=form | fields | {"seen": hidden(path, "seen")})
        assert answer.status_code == status, (act, answer.text)
        if act in mailed:
            walk.token(*mailed[act])
    pages = ("/desk", "/desk/feedback", "/desk/feedback/export.csv", "/desk/audit", person, f"{person}/print")
    assert {walk.http.get(page).status_code for page in (*pages, f"{person}/export.json")} == {200}
    walk.run("desk", "remove", MARY)
    assert walk.http.get(person).is_redirect


def close_and_come_back(walk: Walk, address: str, password: str) -> None:
    """Close the account in every way and open it again each time, under a legal hold."""
    mine = walk.sign_in(address, password)
    walk.api("POST", "/v1/account/close", {"password": walk.password()}, status=403, headers=mine)
    walk.api("POST", "/v1/account/close", {"password": password}, status=200, headers=mine)
    walk.api("POST", "/v1/erasure-requests/cancel", {"token": walk.token(address, "erasure-cancel")}, status=204)

    walk.api("POST", "/v1/erasure-requests", {"email": address}, status=202)
    walk.api("POST", "/v1/erasure-requests/confirm", {"token": walk.token(address, "erasure")}, status=200)
    link = walk.token(address, "erasure-cancel")
    for path in ("/erasure-cancel/look", "/erasure-cancel"):
        walk.page(path, token=link)
    walk.page("/erasure", email=address)
    link = walk.token(address, "erasure")
    for path in ("/erasure/look", "/erasure/confirm"):
        walk.page(path, token=link)
    walk.api("POST", "/v1/erasure-requests/cancel", {"token": walk.token(address, "erasure-cancel")}, status=204)

    walk.run("data", "close", address, "--yes")
    walk.api("POST", "/v1/erasure-requests/cancel", {"token": walk.token(address, "erasure-cancel")}, status=204)


def end(walk: Walk, address: str, password: str) -> None:
    """Request the erasure while emails wait in the queue, and release the hold."""
    mine = walk.sign_in(address, password)
    with walk.refusing(address, LATER):
        walk.api("POST", "/v1/password-resets", {"email": address.upper()}, status=202)
    walk.api("POST", "/v1/account/close", {"password": password, "erase": True}, status=200, headers=mine)
    walk.run("data", "erase", address, "--now", "--yes", status=1)
    walk.run("data", "requests")
    walk.run("data", "release", address)
    walk.run("mail", "status", "--json")


def come_too_late(walk: Walk, account: str, address: str, mine: dict[str, str], password: str) -> None:
    """Try to use the erased account."""
    walk.api("GET", "/v1/account", status=401, headers=mine)
    walk.api("POST", "/v1/sessions", {"email": address, "password": password}, status=401)
    walk.run("data", "find", address, status=1)
    walk.run("data", "audit", account)
    walk.run("data", "requests", "--overdue")
    walk.run("check", status=1)
    for path in ("/v1/policy", "/healthz", "/readyz"):
        walk.api("GET", path, status=200)
    metrics = walk.api("GET", "/metrics", status=200).lower()
    assert not any(word in metrics for word in walk.words.values())
