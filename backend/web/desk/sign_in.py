"""Sign in at the desk by an emailed link, and end sessions."""

import uuid
from contextlib import suppress
from http import HTTPStatus

from flask import g, make_response
from flask.typing import ResponseReturnValue

from backend.accounts.links import Link, State
from backend.database.engine import AnyRow
from backend.desk import managers
from backend.errors import InvalidToken, NotFound, Problem
from backend.security.tokens import Purpose
from backend.web import forms
from backend.web.desk.door import SIGN_IN, door, page, redirect_to, refused, remember, visitor
from backend.web.problems import client

TEMPLATE = "sign_in.html"


def _page_values(view: str, **context: object) -> dict[str, object]:
    defaults = {"purpose": Purpose.DESK, "token": forms.token(), "email": forms.field("email"), "link": None}
    return defaults | context | {"view": view}


@door.get("/sign-in")
@door.get("/sign-in/look")
def sign_in() -> str:
    """Show the page that asks for an address, or for the code of an email."""
    return page(TEMPLATE, **_page_values("start"))


@door.post("/sign-in")
def request_sign_in() -> ResponseReturnValue:
    """Ask for the email with a link. The response is the same for every address."""
    try:
        managers.request_sign_in(email=forms.email(), client=client())
    except Problem as problem:
        return refused(TEMPLATE, problem, **_page_values("start"))
    return page(TEMPLATE, **_page_values("sent"))


@door.post("/sign-in/look")
def look_at_sign_in() -> ResponseReturnValue:
    """Show the manager whom a link signs in, or the link's state. Nothing is changed."""
    try:
        link, manager = managers.look(token=forms.token(), client=client())
    except Problem as problem:
        return refused(TEMPLATE, problem, **_page_values("start"))
    return _looked_at(link, manager)


def _looked_at(link: Link, manager: AnyRow | None) -> ResponseReturnValue:
    if link.state is State.DAMAGED:
        return refused(TEMPLATE, InvalidToken(), **_page_values("start"))
    return page(TEMPLATE, **_page_values(link.state, link=link, manager=manager))


@door.post("/sign-in/confirm")
def confirm_sign_in() -> ResponseReturnValue:
    """Begin a session."""
    try:
        session_token = managers.sign_in(token=forms.token(), client=client())
    except InvalidToken:
        link, manager = managers.find(forms.token())
        return make_response(_looked_at(link, manager), HTTPStatus.BAD_REQUEST)
    except Problem as problem:
        return refused(TEMPLATE, problem, **_page_values("start"))
    if g.visitor:
        # The new session takes the place of this browser's.
        with suppress(NotFound):
            managers.end_session(g.visitor, g.visitor.session_id)
    response = make_response(redirect_to("/desk"))
    remember(response, session_token)
    return response


@door.get("/sessions")
def sessions() -> str:
    """Show where the manager is signed in."""
    return page("sessions.html", sessions=managers.sessions(visitor()))


@door.post("/sessions/<uuid:session_id>/end")
def end_session(session_id: uuid.UUID) -> ResponseReturnValue:
    """End a session of the manager."""
    managers.end_session(visitor(), session_id)
    return redirect_to(SIGN_IN if session_id == visitor().session_id else "/desk/sessions")
