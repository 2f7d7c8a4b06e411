"""Feedback at the desk: read it, reply by email, mark it as done, delete it, take it along."""

import uuid
from typing import Literal

from flask import Response, current_app, request
from flask.typing import ResponseReturnValue

from backend.accounts.feedback import clean_message
from backend.desk import feedback
from backend.errors import Impossible, Problem
from backend.web import forms
from backend.web.desk.door import after_key, door, page, redirect_to, refused

CHOICES: dict[str, Literal["open", "done"] | None] = {"open": "open", "done": "done", "all": None}


def _filter() -> feedback.Filter:
    """Return the messages that the URL asks for: open ones, if it does not say.

    Raises:
        InvalidRequest: a day is not one.
    """
    first, last = (forms.day(name, text) if (text := request.args.get(name)) else None for name in ("from", "to"))
    return feedback.Filter(CHOICES.get(request.args.get("state", "open"), "open"), first, last)


@door.get("/feedback")
def all_feedback() -> ResponseReturnValue:
    """Show the beginnings of messages, the newest first."""
    typed = {name: request.args.get(name, "") for name in ("state", "from", "to")}
    try:
        messages = feedback.page(_filter(), after_key())
    except Problem as problem:
        return refused("feedback.html", problem, list=None, typed=typed)
    return page("feedback.html", list=messages, typed=typed)


@door.get("/feedback/export.<any(json, csv):form>")
def export_feedback(form: str) -> Response:
    """Give out the messages that the address asks for."""
    rows = feedback.exported(_filter())
    text = feedback.spreadsheet(rows) if form == "csv" else current_app.json.dumps({"feedback": rows}, indent=2)
    response = Response(text, mimetype="text/csv" if form == "csv" else "application/json")
    response.headers["Content-Disposition"] = f'attachment; filename="tiles-feedback.{form}"'
    return response


@door.get("/feedback/<uuid:feedback_id>")
def one_feedback(feedback_id: uuid.UUID) -> str:
    """Show a message with its replies."""
    return page("feedback_one.html", feedback=feedback.read(feedback_id))


@door.post("/feedback/<uuid:feedback_id>/<any(done, reopen):act>")
def mark_feedback(feedback_id: uuid.UUID, act: str) -> ResponseReturnValue:
    """Mark a message as done, or as open again."""
    (feedback.finish if act == "done" else feedback.reopen)(feedback_id)
    return redirect_to(f"/desk/feedback/{feedback_id}?done={act}")


@door.get("/feedback/<uuid:feedback_id>/<any(reply, delete):act>")
def ask_feedback(feedback_id: uuid.UUID, act: str) -> str:
    """Explain the effect of an act, and who is notified, before it is done."""
    return page("feedback_act.html", act=act, text="", feedback=feedback.read(feedback_id))


@door.post("/feedback/<uuid:feedback_id>/reply")
def reply_to_feedback(feedback_id: uuid.UUID) -> ResponseReturnValue:
    """Email a reply to the writer of a message."""
    original = feedback.read(feedback_id)
    try:
        message = forms.cleaned("text", clean_message)
        feedback.reply(feedback_id, message=message, after=forms.number("after"))
    except (Problem, Impossible) as error:
        return refused("feedback_act.html", error, act="reply", text=forms.field("text"), feedback=original)
    return redirect_to(f"/desk/feedback/{feedback_id}?done=reply")


@door.post("/feedback/<uuid:feedback_id>/delete")
def delete_feedback(feedback_id: uuid.UUID) -> ResponseReturnValue:
    """Delete a message and its replies for good."""
    feedback.remove(feedback_id)
    return redirect_to("/desk/feedback?done=delete")
