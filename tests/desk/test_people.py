"""People at the desk: finding them, looking at them, and acting on their accounts."""

import re
from datetime import timedelta
from uuid import UUID

from desk_door import Desk, hidden
from journeys import CLOSED, REOPENED, MoveClock, account_id, erase_due, to_and_subject
from peers import token_of
from sqlalchemy import insert, select
from support import Person, Service, any_database

from backend import clock
from backend.database.engine import transaction
from backend.database.models import Account
from backend.desk import people

ADA = "ada@example.org"
A_DAY = timedelta(days=1)


def of_ada(desk: Desk, act: str = "") -> str:
    return f"/people/{account_id(desk.service, ADA)}" + (f"/{act}" if act else "")


def act(desk: Desk, act: str, status: int = 303, /, **fields: object) -> str:
    """Open the page that asks about an act on Ada's account, and confirm it."""
    response = desk.act(of_ada(desk, act), status, **fields)
    return desk.get(response) if status == 303 else response


def acts(service: Service) -> list[str]:
    """Return the managers' acts, the oldest first."""
    rows = [row for row in service.rows("audit") if row["actor"] == "data manager" and row["manager_id"]]
    return [row["act"] for row in sorted(rows, key=lambda row: str(row["at"])) if row["act"] != "looked-at"]


def find(service: Service, text: str) -> list[str]:
    with service.app.app_context():
        return [row.email for row in people.search(text).accounts]


def test_people_are_found_by_address_part_or_name_the_same_first(service: Service) -> None:
    for name, email in (("Grace", "ada@grace.example"), ("Ada", "x@other.example"), ("Zoe ada", "zoe@example.org"),
                        ("Bob", "bob_1@example.org"), ("Ivo", "ada.x@example.org"),
                        ("Anna Östlund", "anna@example.org"),
                        ("\u0645\u06cc\u200c\u0631", "mir@example.org")):  # fmt: skip
        service.register(name=name, email=email)
    assert find(service, " ADA@grace.example ")[0] == "ada@grace.example"
    assert find(service, "ada") == ["x@other.example", "ada.x@example.org", "ada@grace.example"]
    assert find(service, "E ADA") == ["zoe@example.org"]
    assert find(service, "b_1") == ["bob_1@example.org"]
    assert find(service, "grace.ex") == ["ada@grace.example"]
    assert find(service, "Östlund") == find(service, "Anna Ö") == ["anna@example.org"]
    assert find(service, "\u06cc\u200c\u0631") == ["mir@example.org"], "with a zero-width non-joiner"
    for query in ("", " ", "%", "*", "\x00", "bobx1", "x" * 5000):
        assert find(service, query) == []
    (row,) = [row for row in service.rows("accounts") if row["email"] == "zoe@example.org"]
    assert find(service, str(UUID(str(row["id"])))) == ["zoe@example.org"]


@any_database
def test_a_search_shows_fifty_and_says_that_there_are_more(service: Service, desk: Desk) -> None:
    with service.app.app_context(), transaction() as session:
        row = dict(session.execute(select(Account.__table__)).mappings().one())
        session.execute(
            insert(Account), [row | {"id": UUID(int=n), "email": f"many{n}@example.org"} for n in range(60)]
        )
    page = desk.post("/people", 200, text="many").text
    assert page.count("@example.org</a>") == 50
    assert "50 of more accounts found" in page


def test_a_search_puts_no_address_in_a_url_and_opening_a_person_is_audited(service: Service, desk: Desk) -> None:
    response = desk.post("/people", 200, text=ADA)
    assert of_ada(desk) in response.text
    assert ADA not in response.request.url
    (search,) = [row for row in service.rows("audit") if row["act"] == "found"]
    assert ("accounts" in str(search["details"]), ADA in str(search["details"])) == (True, False)
    page = desk.get(of_ada(desk))
    for text in (ADA, "Ada Lovelace", "open", "Each person with an account"):
        assert text in page
    (entry,) = [row for row in service.rows("audit") if row["act"] == "looked-at"]
    assert (entry["actor"], bool(entry["manager_id"])) == ("data manager", True)
    assert "Mary Somerville" in desk.get(of_ada(desk))


def test_a_name_is_corrected_and_removed_and_emails_are_switched(service: Service, desk: Desk, ada: Person) -> None:
    act(desk, "rename", name=" Ada King ")
    assert service.account(ada.headers).json["name"] == "Ada King"
    assert "1 to 200" in act(desk, "rename", 422, name="")
    act(desk, "remove-name")
    act(desk, "unsubscribe")
    account = service.account(ada.headers).json
    assert (account["name"], account["email_updates"]) == (None, False)
    act(desk, "subscribe")
    assert service.account(ada.headers).json["email_updates"] is True
    assert acts(service) == ["signed-in", "renamed", "renamed", "unsubscribed", "subscribed"]
    assert service.deliver() == []


def test_a_new_address_counts_once_its_mailbox_is_proven(service: Service, desk: Desk, ada: Person) -> None:
    act(desk, "change-email", email="countess@example.org")
    (message,) = service.deliver()
    assert message["To"] == "countess@example.org"
    assert service.account(ada.headers).json["email"] == ADA
    assert service.http.post("/v1/email-changes/confirm", json={"token": token_of(message)}).status_code == 204
    assert service.account(ada.headers).json["email"] == "countess@example.org"
    path = f"/people/{account_id(service, 'countess@example.org')}/change-email"
    assert "There is a problem" in desk.act(path, 422, email="nonsense")


def test_an_account_is_closed_opened_erased_and_taken_back(service: Service, desk: Desk) -> None:
    act(desk, "close")
    assert to_and_subject(service.deliver()) == {(ADA, CLOSED)}
    act(desk, "reopen")
    assert to_and_subject(service.deliver()) == {(ADA, REOPENED)}
    page = act(desk, "erase")
    assert f"{clock.now() + 14 * A_DAY:%Y-%m-%d}" in page
    assert "Cancel the erasure" in page
    assert to_and_subject(service.deliver()) == {(ADA, CLOSED)}
    act(desk, "cancel")
    assert to_and_subject(service.deliver()) == {(ADA, REOPENED)}
    assert acts(service)[1:] == ["closed", "reopened", "closed", "erasure-requested", "reopened"]


def test_erasing_now_asks_again_and_leaves_the_history(service: Service, desk: Desk) -> None:
    path = of_ada(desk)
    page = desk.get(f"{path}/erase-now")
    assert "cannot be undone" in page
    assert ADA in page
    assert "Tick the box" in act(desk, "erase-now", 422)
    assert acts(service) == ["signed-in"]
    act(desk, "erase-now", sure="yes")
    assert erase_due(service) == 1
    page = desk.get(path)
    assert ADA not in page
    assert "An erased account" in page
    assert "erasure requested" in page
    desk.get(f"{path}/rename", 404)


def test_a_hold_is_placed_and_lifted_and_delays_an_erasure(service: Service, desk: Desk) -> None:
    assert "such as 2027-01-31" in act(desk, "hold", 422, basis="Order 12", until="31.1.2027")
    assert "Name a day in the future" in act(desk, "hold", 409, basis="Order 12", until="2020-01-31")
    assert "leave the person" in act(desk, "hold", 409, basis="Order about Ada Lovelace", until="2099-01-31").lower()
    act(desk, "hold", basis="Order 12", until="2099-01-31")
    assert "2099-01-31" in desk.get(of_ada(desk))
    assert "A legal hold keeps this account" in act(desk, "erase-now", 409, sure="yes")
    act(desk, "release", sure="yes")
    assert "There is no legal hold" in act(desk, "release", 409, sure="yes")
    assert acts(service)[1:] == ["held", "released"]


def test_a_disclosure_contains_the_chosen_fields_and_is_recorded_once(service: Service, desk: Desk) -> None:
    order = {"authority": "Police of Oslo", "basis": "Order 12", "sure": "yes"}
    assert "Choose what to disclose" in act(desk, "disclose", 409, **order)
    path = of_ada(desk, "disclose")
    form = hidden(desk.get(path)) | order | {"email": "yes"}
    page = desk.post(path, 200, **form).text
    assert ADA in page
    assert "Ada Lovelace" not in page
    assert "has changed since you opened the page" in desk.post(path, 409, **form).text
    assert len(service.rows("disclosures")) == 1
    (entry,) = [row for row in service.rows("audit") if row["act"] == "disclosed"]
    assert "Police of Oslo" in str(entry["details"])
    assert "email" in str(entry["details"])


def test_all_data_about_a_person_is_exported_as_json_and_as_a_printable_page(service: Service, desk: Desk) -> None:
    response = desk.browser.get(f"/desk{of_ada(desk)}/export.json")
    assert {table["table"] for table in response.json["stored"]} >= {"accounts", "sessions", "audit"}
    assert response.headers["Content-Disposition"].startswith("attachment")
    assert re.fullmatch(r"[-\d]{10}T[:\d]{8}Z", response.json["exported_at"])
    printed = desk.get(f"{of_ada(desk)}/print")
    assert ADA in printed
    assert "argon2" not in printed
    assert acts(service)[1:] == ["exported", "exported"]


def test_an_outdated_form_of_a_second_manager_is_refused(service: Service, desk: Desk) -> None:
    other = Desk(service, "grace@example.org", name="Grace Hopper")
    fields = {"name": "Countess", "basis": "Order 1", "authority": "Court", "until": "2099-01-01", "sure": "yes",
              "email": "new@example.org"}  # fmt: skip
    for name in ("rename", "disclose", "hold", "change-email", "close"):
        path = of_ada(desk, name)
        forms = [hidden(each.get(path)) | fields for each in (desk, other)]
        desk.post(path, 200 if name == "disclose" else 303, **forms[0])
        before = service.everything()
        refused = other.post(path, 409, **{**forms[1], "form_token": other.form_token}).text
        assert "This account has changed since you opened the page" in refused
        assert service.everything() == before


def test_an_irreversible_act_needs_a_sign_in_of_the_last_ten_minutes(
    service: Service, desk: Desk, move_clock: MoveClock
) -> None:
    forms = {name: hidden(desk.get(of_ada(desk, name))) for name in ("erase-now", "release", "disclose", "close")}
    move_clock(timedelta(minutes=11))
    for name in ("erase-now", "release", "disclose"):
        assert "Sign in once more" in desk.get(of_ada(desk, name), 403)
        form = forms[name] | {"sure": "yes", "authority": "A", "basis": "B", "email": "yes"}
        assert "Sign in once more" in desk.post(of_ada(desk, name), 403, **form).text
    desk.get(of_ada(desk, "close"))
    desk.sign_in()
    assert "Erase the account now" in desk.get(of_ada(desk, "erase-now"))
    assert acts(service) == ["signed-in", "signed-in"]


@any_database
def test_an_unknown_id_is_not_found(desk: Desk) -> None:
    for path in ("", "/rename", "/nonsense", "/export.json", "/print", "/close"):
        desk.get(f"/people/{UUID(int=7)}{path}", 404)
        desk.post(f"/people/{UUID(int=7)}{path or '/close'}", 404)


@any_database
def test_a_name_that_is_html_is_shown_as_text(desk: Desk) -> None:
    act(desk, "rename", name="<script>alert(1)</script>")
    for path in (of_ada(desk), of_ada(desk, "rename"), of_ada(desk, "print")):
        page = desk.get(path)
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page
