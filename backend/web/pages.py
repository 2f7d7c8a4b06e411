"""The pages that explain the service, and the addresses that programs look for by themselves."""

from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any

from flask import Blueprint, Response, current_app, redirect, render_template
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from backend import clock
from backend.config import settings
from backend.database.inventory import inventory
from backend.database.models import KEEP_RECORDS, RECORD
from backend.errors import NotFound, Unknown, problems
from backend.privacy import policy
from backend.security.tokens import MAILED
from backend.web import markdown
from backend.web.api import operations
from backend.web.problems import DATABASE_AWAY

# RFC 9116 (section 2.5.5) recommends less than a year; this file renews itself.
SECURITY_TXT_LIFETIME = timedelta(days=90)
VERSIONS_KEPT = 64

door = Blueprint("pages", __name__)


@door.app_context_processor
def _template_globals() -> dict[str, Any]:
    values = settings()
    return {
        "app_url": values.app_url,
        "terms_url": values.terms_url,
        "support_email": values.support_email,
        "data_manager_email": values.data_manager_email,
        "min_length": values.password_min_length,
        "grace_days": values.erasure_grace_days,
        "closed_retention_days": values.closed_retention_days,
        "record": RECORD,
        "keep_records": KEEP_RECORDS,
    }


@door.get("/")
def home() -> str:
    """Describe the service."""
    return render_template("home.html")


@door.get("/privacy")
def privacy() -> str:
    """Show the promises, the policy and the inventory; while the database is away, all but the policy."""
    try:
        shown = {policy.IN_FORCE, policy.UPCOMING}
        versions = [policy.with_text(each) if each.state in shown else each for each in policy.versions()]
        unknown = False
    except DATABASE_AWAY:
        versions, unknown = [], True
    of_state = {state: [version for version in versions if version.state == state] for state in policy.STATES}
    stored = Markup(_rendered_once("_inventory.html", lambda: {"inventory": inventory()}))  # noqa: S704 - rendered here
    return render_template(
        "privacy.html",
        inventory=stored,
        policy=next(iter(of_state[policy.IN_FORCE]), None),
        upcoming=of_state[policy.UPCOMING],
        replaced=of_state[policy.REPLACED],
        policy_unknown=unknown,
    )


@door.get("/privacy/<version>")
def privacy_version(version: str) -> str:
    """Show one published version of the policy, also after it was replaced or withdrawn."""
    try:
        shown = policy.find(version)
    except Unknown:
        raise NotFound from None
    return render_template("privacy_version.html", policy=shown)


@door.get("/problems")
@door.get("/problems/")
def all_problems() -> str:
    """List the problem codes."""
    return render_template("problems.html", problems=list(problems().values()))


@door.get("/problems/<code>")
def problem(code: str) -> str:
    """Explain a problem code."""
    try:
        return render_template("problem.html", problem=problems()[code])
    except KeyError:
        raise NotFound from None


@door.get("/docs")
def docs() -> str:
    """Show the API's documentation, made from its OpenAPI document."""
    context = {"api": operations.document, "problems": list(problems().values()), "url": settings().public_url}
    return _rendered_once("docs.html", lambda: context)


def _rendered_once(template: str, context: Callable[[], dict[str, Any]]) -> str:
    """Return a page that is the same for everybody. It is cached because nothing limits these requests."""
    rendered: dict[str, str] = current_app.extensions.setdefault("tiles.pages", {})
    if template not in rendered:
        rendered[template] = render_template(template, **context())
    return rendered[template]


# Cached because nothing limits those who read a policy.
door.add_app_template_filter(lru_cache(VERSIONS_KEPT)(markdown.render), "markdown")


@door.app_template_filter("resolve")
def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the target of the OpenAPI document's `$ref`, or the schema itself."""
    name = schema.get("$ref", "").rpartition("/")[2]
    target: dict[str, Any] = operations.document["components"]["schemas"][name] if name else schema
    return target


@door.get("/.well-known/change-password")
def change_password() -> ResponseReturnValue:
    """Redirect a password manager to the reset (W3C, A Well-Known URL for Changing Passwords)."""
    return redirect("/password-reset", 303)


@door.get("/.well-known/security.txt")
def security_txt() -> Response:
    """Return the contact for reports of vulnerabilities (RFC 9116)."""
    url, email = settings().public_url, settings().support_email or settings().data_manager_email
    lines = (
        f"Contact: {f'mailto:{email}' if email else f'{url}/'}",
        f"Expires: {clock.now() + SECURITY_TXT_LIFETIME:%Y-%m-%dT00:00:00Z}",
        "Preferred-Languages: en",
        f"Canonical: {url}/.well-known/security.txt",
        f"Policy: {url}/privacy",
    )
    return Response("\n".join(lines) + "\n", mimetype="text/plain")


@door.get("/.well-known/apple-app-site-association")
def apple_app_site_association() -> ResponseReturnValue:
    """Let the iPhone apps of the settings open the emailed links, and share the passwords of these pages."""
    apps = settings().ios_app_ids
    if not apps:
        raise NotFound
    # Without a code a page stays in the browser.
    links = [{"/": f"/{purpose}", "#": "?*"} for purpose in MAILED]
    return current_app.json.response(
        {"applinks": {"details": [{"appIDs": apps, "components": links}]}, "webcredentials": {"apps": apps}}
    )


@door.get("/.well-known/assetlinks.json")
def assetlinks() -> ResponseReturnValue:
    """Let the Android apps of the settings open the emailed links, and share the passwords (Digital Asset Links)."""
    certificates: dict[str, list[str]] = {}
    for app in settings().android_apps:
        package, _, fingerprint = app.partition("=")
        certificates.setdefault(package, []).append(fingerprint)
    if not certificates:
        raise NotFound
    relation = ["delegate_permission/common.handle_all_urls", "delegate_permission/common.get_login_creds"]
    app_of = {"namespace": "android_app"}
    return current_app.json.response([
        {"relation": relation, "target": app_of | {"package_name": package, "sha256_cert_fingerprints": fingerprints}}
        for package, fingerprints in certificates.items()
    ])  # fmt: skip
