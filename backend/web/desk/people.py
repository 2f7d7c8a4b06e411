"""Search for people, show everything that is held about a person, and act on their account."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, time
from typing import Any

from flask import Response
from flask.typing import ResponseReturnValue
from pydantic import TypeAdapter

from backend.accounts.fields import clean_name
from backend.config import settings
from backend.database.export import AccountExport
from backend.desk import disclosures, holds, operations, people
from backend.desk.operations import Seen
from backend.errors import FieldError, Impossible, InvalidRequest, NotFound, Problem
from backend.web import forms
from backend.web.desk.door import door, page, redirect_to, refused, sign_in_again, visitor

EXPORT = TypeAdapter(AccountExport)


@door.get("/people")
def search_form() -> str:
    """Show the form that finds people."""
    return page("people.html", text="", result=None)


@door.post("/people")
def search_people() -> str:
    """Show the people that match. It is a form, because an address in a URL would stand in a proxy's log."""
    return page("people.html", text=forms.field("text"), result=people.search(forms.field("text")))


@door.get("/people/<uuid:account_id>")
def person(account_id: uuid.UUID) -> str:
    """Show everything that is held about a person, and the possible acts."""
    return page("person.html", person=people.open_person(account_id), account_id=account_id)


@door.get("/people/<uuid:account_id>/export.json")
def export_person(account_id: uuid.UUID) -> ResponseReturnValue:
    """Give out everything that is held, as the person's app would get it."""
    content = EXPORT.dump_json(operations.export(str(account_id)))
    response = Response(content, content_type="application/json")
    response.headers["Content-Disposition"] = f'attachment; filename="tiles-{account_id}.json"'
    return response


@door.get("/people/<uuid:account_id>/print")
def print_person(account_id: uuid.UUID) -> str:
    """Show everything that is held on a page to be printed."""
    export = operations.export(str(account_id))
    return page("person_print.html", export=export, account_id=account_id, public_url=settings().public_url)


def _hold(who: Seen) -> object:
    until = datetime.combine(forms.day("until"), time.min, UTC)
    return holds.place(who, basis=forms.field("basis"), until=until)


def _disclose(who: Seen) -> object:
    chosen = [name for name in disclosures.DISCLOSED if forms.field(name)]
    return disclosures.disclose(who, authority=forms.field("authority"), basis=forms.field("basis"), fields=chosen)


# templates/desk/act.html explains each act under the same name.
ACTS: dict[str, Callable[[Seen], object]] = {
    "rename": lambda who: operations.rename(who, forms.cleaned("name", clean_name)),
    "remove-name": lambda who: operations.rename(who, None),
    "change-email": lambda who: operations.request_email_change(who, forms.email()),
    "unsubscribe": operations.unsubscribe,
    "subscribe": operations.subscribe,
    "close": operations.close,
    "reopen": operations.reopen,
    "erase": operations.erase,
    "cancel": lambda who: operations.reopen(who, erasure=True),
    "erase-now": lambda who: operations.erase(who, at_once=True),
    "hold": _hold,
    "release": holds.release,
    "disclose": _disclose,
}
# They need a recent sign-in and a tick, as they cannot be undone.
GRAVE = {"erase-now", "release", "disclose"}


def _form_values(account_id: uuid.UUID, act: str) -> dict[str, Any]:
    """Return the values of an act's form."""
    if act not in ACTS:
        raise NotFound
    account = operations.get_account(str(account_id))
    return {
        "account": account,
        "seen": operations.state(account),
        "act": act,
        "grave": act in GRAVE,
        "typed": forms.field,
    }


@door.get("/people/<uuid:account_id>/<act>")
def explain_act(account_id: uuid.UUID, act: str) -> ResponseReturnValue:
    """Explain the effect of an act, and who is notified, before it is done."""
    form = _form_values(account_id, act)
    return sign_in_again() if act in GRAVE and not visitor().is_recent else page("act.html", **form)


@door.post("/people/<uuid:account_id>/<act>")
def do_act(account_id: uuid.UUID, act: str) -> ResponseReturnValue:
    """Do it, unless the account has changed since the form was shown."""
    if act in GRAVE and not visitor().is_recent:
        return sign_in_again()
    form = _form_values(account_id, act)
    try:
        if act in GRAVE and not forms.field("sure"):
            raise InvalidRequest(errors=[FieldError("/sure", "tick the box, as this cannot be undone")])
        result = ACTS[act](Seen(account_id, forms.field("seen")))
    except (Problem, Impossible) as error:
        return refused("act.html", error, **form)
    if isinstance(result, disclosures.Disclosed):
        return page("disclosed.html", disclosed=result, account_id=account_id)
    return redirect_to(f"/desk/people/{account_id}?done={act}")
