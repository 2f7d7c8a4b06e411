"""Announce something to people by email, watch the progress, and stop it."""

import uuid
from typing import Any

from flask.typing import ResponseReturnValue

from backend.errors import Impossible, Problem
from backend.mail.news import News, paragraphs
from backend.privacy import announcements, policy
from backend.privacy.texts import plain_text
from backend.web import forms
from backend.web.desk.door import after_key, door, page, redirect_to, refused, visitor


@door.get("/announcements")
def list_announcements() -> str:
    """List announcements, the newest first."""
    return page("announcements.html", listed=announcements.listed(after_key()))


def _form_values() -> dict[str, Any]:
    published = [each.version for each in policy.versions() if each.state != policy.WITHDRAWN]
    return {"typed": forms.field, "versions": published[::-1]}


@door.get("/announcements/new")
def new_announcement() -> str:
    """Show the forms for a text and for a version of the policy."""
    return page("announcement_new.html", **_form_values())


def _news() -> News:
    if version := forms.field("version"):
        summary = plain_text(forms.field("summary").encode())
        return News(version=version, text=summary or None, material=bool(forms.field("material")))
    return News(forms.field("subject"), plain_text(forms.field("text").encode()))


@door.post("/announcements/new")
def announce() -> ResponseReturnValue:
    """Show an announcement as people would get it or, sent from there, try it on the manager or begin it."""
    form, act = _form_values(), forms.field("act")
    if act == "change":
        return page("announcement_new.html", **form)
    try:
        news = announcements.check(_news(), once=True)
        if act == "send":
            return redirect_to(f"/desk/announcements/{announcements.announce(news, once=True).announcement}")
        if act == "test":
            announcements.send_test(news, visitor().manager.email)
        email = announcements.preview(news)
    except (Problem, Impossible) as error:
        return refused("announcement_new.html", error, **form)
    number = announcements.count_recipients(everybody=news.material)
    return page("announcement_check.html", **form, news=news, email=email, number=number, is_tried=act == "test")


@door.get("/announcements/<uuid:announcement>")
def announcement_progress(announcement: uuid.UUID) -> str:
    """Show an announcement, and how far it is."""
    row = announcements.find(announcement)
    return page("announcement.html", announcement=row, paragraphs=paragraphs(row.text))


@door.get("/announcements/<uuid:announcement>/stop")
def ask_to_stop(announcement: uuid.UUID) -> str:
    """Explain the effect of stopping an announcement."""
    return page("announcement_stop.html", announcement=announcements.find(announcement))


@door.post("/announcements/<uuid:announcement>/stop")
def stop(announcement: uuid.UUID) -> ResponseReturnValue:
    """Stop an announcement."""
    announcements.stop(announcement)
    return redirect_to(f"/desk/announcements/{announcement}")
