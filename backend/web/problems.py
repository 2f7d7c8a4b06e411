"""Shared by the API and the pages: the client and session of a request, problem documents, and the request log."""

import logging
import time
from http import HTTPStatus

from flask import Blueprint, Flask, Response, make_response, render_template, request
from flask.typing import ResponseReturnValue
from pydantic_core import to_json
from sqlalchemy import exc
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import RequestRedirect

from backend import errors
from backend.accounts import sessions
from backend.config import settings
from backend.database import outbox
from backend.errors import Problem, Unauthenticated
from backend.logs import REQUEST_ID, log_response
from backend.metrics import meters
from backend.security import throttle
from backend.security.clients import client_key
from backend.web.bodies import LARGEST_BODY_BYTES
from backend.web.headers import with_headers

DATABASE_RETRY_SECONDS = 5
PROBLEM_TYPE = "application/problem+json"
BEGUN = "tiles.begun"
DATABASE_AWAY = (exc.OperationalError, exc.InterfaceError, exc.InternalError, exc.TimeoutError)
"""The errors of a database that is unavailable, in contrast to those of a wrong statement."""

log = logging.getLogger(__name__)


def client() -> str:
    """Return the key under which the client's requests are counted."""
    return client_key(request.remote_addr)


def charge_request() -> str:
    """Charge the client for reading a body; return the client.

    Raises:
        TooManyRequests: it sent too many.
    """
    sender = client_key(request.remote_addr)
    throttle.charge("request", client=sender)
    return sender


def bearer_token() -> str:
    """Return the token of the header Authorization; empty if there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def viewer() -> sessions.Viewer:
    """Return the account and the session of the request.

    Raises:
        Unauthenticated: it has no valid session.
    """
    if not (token := bearer_token()):
        raise Unauthenticated
    return sessions.identify(token)


def viewer_if_any() -> sessions.Viewer | None:
    """Return the account and the session of the request; None without a bearer token, as many proxies send Basic.

    Raises:
        Unauthenticated: the bearer token is of no valid session.
    """
    # The front replaces a value that is not ASCII by an empty one.
    scheme = request.headers.get("Authorization", "Basic").partition(" ")[0]
    return viewer() if scheme.lower() in {"bearer", ""} else None


def problem_response(problem: Problem) -> Response:
    """Return the problem document (RFC 9457), or a page if a browser asks for one outside of the API."""
    if not request.path.startswith("/v1/") and "text/html" in request.headers.get("Accept", ""):
        response = make_response(render_template("error.html", problem=problem), problem.status)
    else:
        response = Response(to_json(_document(problem)), problem.status, content_type=PROBLEM_TYPE)
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(problem.retry_after)
    if problem.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _document(problem: Problem) -> dict[str, object]:
    return {
        "type": f"{settings().public_url}/problems/{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request.environ[REQUEST_ID],
        "errors": [{"pointer": e.pointer, "detail": e.detail} for e in problem.errors],
    }


_FRAMEWORK_ERRORS: dict[int | None, type[Problem]] = {
    404: errors.NotFound, 405: errors.MethodNotAllowed, 413: errors.PayloadTooLarge, 415: errors.UnsupportedMediaType,
}  # fmt: skip


def _framework_error(error: HTTPException) -> ResponseReturnValue:
    response = problem_response(_FRAMEWORK_ERRORS.get(error.code, errors.InvalidRequest)())
    if allowed := getattr(error, "valid_methods", None):
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response


def _database_away(error: exc.SQLAlchemyError) -> Response:
    cause = getattr(error, "orig", None)
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    log.error("the database cannot be used: %s %s", type(error).__name__, code)
    return problem_response(errors.Overloaded(retry_after=DATABASE_RETRY_SECONDS))


def _unexpected(error: Exception) -> Response:
    """Respond to a bug. Log its stack without its message, which may contain a part of the request."""
    log.error("unexpected: %s", errors.stack_of(error))
    return problem_response(errors.InternalError())


def _begin() -> None:
    """Note the start of a request; refuse it without exactly one host, or with a path to be redirected."""
    environ = request.environ
    environ[BEGUN] = time.perf_counter()
    # The HTTP server joins two headers with a comma.
    host = environ.get("HTTP_HOST")
    if "," in (host or "") or (host is None and environ["SERVER_PROTOCOL"] == "HTTP/1.1"):
        raise errors.WrongHost
    # Flask redirects a path with double slashes to the host that the request names.
    if isinstance(request.routing_exception, RequestRedirect):
        raise errors.NotFound


def _end(response: Response) -> Response:
    """Measure and log the response once the writes of its request are durable."""
    # Without a route, both the path and the method are the client's own text.
    rule, status, environ = request.url_rule, response.status_code, request.environ
    method, route = (environ["REQUEST_METHOD"], rule.rule) if rule else ("_OTHER", "none")
    begun, request_id, measure = environ[BEGUN], environ[REQUEST_ID], meters().answered

    def report() -> None:
        seconds = time.perf_counter() - begun
        measure(method, route, status, seconds)
        log_response(method, route, status, seconds, request_id)

    outbox.afterwards(report)
    return response


def init_app(app: Flask, *blueprints: Blueprint) -> None:
    """Register the API and the pages, their headers and their error handlers."""
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.jinja_env.policies["json.dumps_kwargs"] = {}
    # Flask stops reading there without an error: one more byte shows that a body is too large.
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY_BYTES + 1
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.before_request(_begin)
    app.after_request(_end)
    app.register_error_handler(Problem, problem_response)
    app.register_error_handler(HTTPException, _framework_error)
    for error in DATABASE_AWAY:
        app.register_error_handler(error, _database_away)
    app.register_error_handler(Exception, _unexpected)
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    with app.app_context():
        https, proxies = settings().public_url.startswith("https://"), settings().trusted_proxies
    app.wsgi_app = with_headers(  # type: ignore[method-assign,assignment]
        app.wsgi_app, https=https, is_proxied=proxies > 0
    )
    if proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=0)  # type: ignore[method-assign]
