"""The start page of the desk, with the requests and erasures that wait, and the register of requests."""

import uuid
from typing import Any

from flask import request
from flask.typing import ResponseReturnValue

from backend import clock
from backend.desk import requests
from backend.errors import Impossible, Problem
from backend.web import forms
from backend.web.desk.door import after_key, door, page, redirect_to, refused


@door.get("")
def waiting() -> str:
    """Show the requests and erasures that wait, the first due first."""
    return page("requests.html", list=requests.page(after_key()))


@door.get("/requests/done")
def answered() -> str:
    """Show the answered requests, the last answered first."""
    return page("requests_done.html", list=requests.answered(after_key()))


def _form_values(typed: dict[str, str]) -> dict[str, Any]:
    """Return the values of the form for a new request. Its id makes a form that is sent twice one request."""
    kinds, ways = ([(value, value.capitalize()) for value in values] for values in (requests.KINDS, requests.WAYS))
    return {"typed": typed, "kinds": kinds, "ways": ways}


@door.get("/requests/new")
def new_request() -> str:
    """Show the form that enters a request."""
    typed = {"id": str(uuid.uuid4()), "who": request.args.get("account", ""), "received": str(clock.now().date())}
    return page("request_new.html", **_form_values(typed))


@door.post("/requests/new")
def enter_request() -> ResponseReturnValue:
    """Enter a request into the register."""
    typed = {name: forms.field(name).strip() for name in ("id", "who", "kind", "way", "identity", "received")}
    try:
        request_id = requests.record(
            typed["who"] or None, kind=typed["kind"], way=typed["way"], identity=typed["identity"],
            received_on=forms.day("received"), request_id=forms.random_id("id"),
        )  # fmt: skip
    except (Problem, Impossible) as error:
        return refused("request_new.html", error, **_form_values(typed))
    return redirect_to(f"/desk/requests/{request_id}?done=new")


def _page_values(request_id: uuid.UUID) -> dict[str, Any]:
    entry = requests.find(request_id)
    return {"entry": entry, "can_extend": requests.can_extend(entry), "extended_to": requests.extended_to(entry)}


@door.get("/requests/<uuid:request_id>")
def one_request(request_id: uuid.UUID) -> str:
    """Show a request, and the possible acts."""
    return page("request.html", **_page_values(request_id))


@door.get("/requests/<uuid:request_id>/<any(extend, done):act>")
def ask_request(request_id: uuid.UUID, act: str) -> str:
    """Explain the effect of an act before it is done."""
    return page("request_act.html", act=act, text="", **_page_values(request_id))


@door.post("/requests/<uuid:request_id>/<any(extend, done):act>")
def do_request(request_id: uuid.UUID, act: str) -> ResponseReturnValue:
    """Put a request off, or note how it was answered."""
    values, text = _page_values(request_id), forms.field("text").strip()
    try:
        if act == "extend":
            requests.extend(request_id, reason=text)
        else:
            requests.finish(request_id, outcome=text)
    except Impossible as error:
        return refused("request_act.html", error, act=act, text=text, **values)
    return redirect_to(f"/desk/requests/{request_id}?done={act}")
