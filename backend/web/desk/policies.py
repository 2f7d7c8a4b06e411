"""Publish versions of the privacy policy, and withdraw them."""

from typing import Any

from flask.typing import ResponseReturnValue

from backend.errors import Impossible, Problem
from backend.privacy import policy
from backend.privacy.texts import plain_text
from backend.web import forms, markdown
from backend.web.desk.door import door, page, redirect_to, refused


@door.get("/policies")
def policies() -> str:
    """List every version, the last first."""
    return page("policies.html", versions=policy.versions()[::-1])


def _form_values(text: str | None = None) -> dict[str, Any]:
    return {"typed": forms.field, "text": forms.field("text") if text is None else text}


@door.get("/policies/new")
def new_policy() -> str:
    """Show the form for a new version."""
    return page("policy_new.html", **_form_values())


@door.post("/policies/new")
def publish() -> ResponseReturnValue:
    """Show a version as people will see it or, sent from there, publish it."""
    form, act = _form_values(), forms.field("act")
    try:
        # A file has priority over the text field.
        form = _form_values(plain_text(forms.file("file") or forms.field("text").encode()))
        if act == "change":
            return page("policy_new.html", **form)
        version, effective_on, text = forms.field("version").strip(), forms.day("effective_on"), form["text"]
        new = {"version": version, "effective_on": effective_on, "text": text}
        if act == "publish":
            policy.publish(**new, once=True)
            return redirect_to("/desk/policies")
        policy.check(**new, once=True)
    except (Problem, Impossible) as error:
        return refused("policy_new.html", error, **form)
    return page("policy_check.html", **form, new=new, rendered=markdown.render(text, 2, "policy"))


@door.get("/policies/<version>/withdraw")
def ask_to_withdraw(version: str) -> str:
    """Explain the effect of withdrawing a version."""
    return page("policy_withdraw.html", policy=policy.check_withdrawal(version))


@door.post("/policies/<version>/withdraw")
def withdraw(version: str) -> ResponseReturnValue:
    """Withdraw a version that is not in force yet."""
    policy.withdraw(version)
    return redirect_to("/desk/policies")
