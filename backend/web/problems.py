"""What both HTTP doors share: problem documents, headers, and who is calling."""

import hmac
import ipaddress
import logging
import re
import secrets
import time
from http import HTTPStatus

from flask import Blueprint, Flask, Response, current_app, g, make_response, render_template, request
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import InternalError as InternalDatabaseError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import RequestRedirect

from backend.accounts import sessions
from backend.config import settings
from backend.database import outbox
from backend.errors import (
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    Problem,
    Unauthenticated,
    UnsupportedMediaType,
    WrongHost,
    stack_of,
)
from backend.logs import Response as LoggedResponse
from backend.logs import log_response
from backend.metrics import meters
from backend.security.clients import client_key
from backend.security.throttle import throttle
from backend.web.bodies import BODY_BYTES
from backend.web.headers import Headed

DATABASE_RETRY_SECONDS = 5
REQUEST_ID = re.compile("[0-9a-f]{32}")
# A reverse proxy sets one of these (RFC 7239; RFC 9110 section 7.6.3).
PROXIED = {"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Forwarded", "Via"}
PROBLEM_TYPE = "application/problem+json"
# What says that the database cannot be used now, and not that we asked it wrongly.
DATABASE_AWAY = (OperationalError, InterfaceError, InternalDatabaseError, PoolTimeout)

log = logging.getLogger(__name__)


def client() -> str:
    """Return what stands for the caller in limits."""
    return client_key(request.remote_addr)


def charge_request() -> None:
    """Charge the caller for a body that is about to be read.

    Raises:
        TooManyRequests: they sent too many.
    """
    throttle().charge("request", client=client())


def viewer() -> sessions.Viewer:
    """Return whose request this is.

    Raises:
        Unauthenticated: nobody's.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated
    return sessions.identify(token.strip())


def viewer_if_any() -> sessions.Viewer | None:
    """Return whose request this is, or None where it does not say.

    Raises:
        Unauthenticated: it says so with a session that is none.
    """
    return viewer() if "Authorization" in request.headers else None


def require_operator() -> None:
    """Let in who may read metrics: with the token of the settings or, where there is none, from this machine.

    Raises:
        Unauthenticated, NotFound: it is somebody else. What came through a proxy is not from this machine.
    """
    token = settings().metrics_token
    if token is None:
        if PROXIED & set(request.headers.keys()) or not _is_loopback(request.remote_addr):
            raise NotFound
        return
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.get_secret_value().encode()):
        raise Unauthenticated("Send TILES_METRICS_TOKEN as Authorization: Bearer.")


def _is_loopback(address: str | None) -> bool:
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def idempotency_key() -> str | None:
    """Return the key under which the same request may come again (IETF draft, The Idempotency-Key HTTP Header)."""
    return request.headers.get("Idempotency-Key")


def problem_response(problem: Problem) -> Response:
    """Return the problem document (RFC 9457), or a page for a person who opened an address in a browser."""
    if _is_for_a_person():
        page = render_template("error.html", status=problem.status, title=problem.title, detail=problem.detail)
        response = make_response(page, problem.status)
    else:
        document = current_app.json.dumps(_document(problem))
        response = Response(document, problem.status, mimetype=PROBLEM_TYPE)
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(problem.retry_after)
    if problem.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _is_for_a_person() -> bool:
    """Tell whether a browser asks for a page; a client that takes anything gets the document."""
    return not request.path.startswith("/v1/") and "text/html" in request.headers.get("Accept", "")


def _document(problem: Problem) -> dict[str, object]:
    document: dict[str, object] = {
        "type": f"{settings().public_url}/problems/{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
    }
    if problem.errors:
        document["errors"] = [{"pointer": e.pointer, "detail": e.detail} for e in problem.errors]
    return document


_OF_THE_FRAMEWORK: dict[int, type[Problem]] = {
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.METHOD_NOT_ALLOWED: MethodNotAllowed,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: PayloadTooLarge,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: UnsupportedMediaType,
}


def _framework_error(error: HTTPException) -> ResponseReturnValue:
    if error.code is not None and error.code < HTTPStatus.BAD_REQUEST:
        return error
    response = problem_response(_OF_THE_FRAMEWORK.get(error.code or 0, InvalidRequest)())
    allowed = getattr(error, "valid_methods", None)
    if allowed:
        response.headers["Allow"] = ", ".join(sorted(allowed))
    return response


def _database_away(error: DBAPIError | PoolTimeout) -> Response:
    cause = getattr(error, "orig", None)
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    log.error("the database cannot be used: %s %s", type(error).__name__, code)
    return problem_response(Overloaded(retry_after=DATABASE_RETRY_SECONDS))


def _unexpected(error: Exception) -> Response:
    """Answer for our own mistake; the log gets the stack without the message, which may hold what was sent."""
    log.error("unexpected: %s", stack_of(error))
    return problem_response(InternalError())


def _begin() -> None:
    """Before each request: note when it began, and what it is called."""
    g.begun = time.perf_counter()
    g.request_id = _request_id()
    # Of two headers the server makes one, with a comma.
    host = request.environ.get("HTTP_HOST")
    if "," in (host or "") or (host is None and request.environ["SERVER_PROTOCOL"] == "HTTP/1.1"):
        raise WrongHost
    # To the same address with other slashes: such a redirect would name the host that the request named.
    if isinstance(request.routing_exception, RequestRedirect):
        raise NotFound


def _request_id() -> str:
    """Return what the log calls this request: what the reverse proxy calls it, where that is a random number."""
    if settings().trusted_proxies:
        given = request.headers.get("X-Request-Id", "")
        if REQUEST_ID.fullmatch(given):
            return given
    return secrets.token_hex(16)


def _end(response: Response) -> Response:
    """After each request: measure it, and log it."""
    # Without a route both the path and the method are the sender's own words.
    rule, status = request.url_rule, response.status_code
    method, route = (request.method, rule.rule) if rule else ("_OTHER", "none")
    begun, request_id = g.begun, g.request_id
    measure = meters().answered

    def report() -> None:
        seconds = time.perf_counter() - begun
        measure(method, route, status, seconds)
        log_response(LoggedResponse(method, route, status, seconds, request_id))

    outbox.afterwards(report)
    return response


def init_app(app: Flask, *doors: Blueprint) -> None:
    """Open the doors and give every answer its headers, every failure its problem."""
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES + 1
    app.config["SEND_FILE_MAX_AGE_DEFAULT"] = None
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.before_request(_begin)
    app.after_request(_end)
    app.register_error_handler(Problem, problem_response)
    app.register_error_handler(HTTPException, _framework_error)
    for away in DATABASE_AWAY:
        app.register_error_handler(away, _database_away)
    app.register_error_handler(Exception, _unexpected)
    with app.app_context():
        https, proxies = settings().public_url.startswith("https://"), settings().trusted_proxies
    app.wsgi_app = Headed(app.wsgi_app, https=https)  # type: ignore[method-assign]
    if proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=0)  # type: ignore[method-assign]
    for door in doors:
        app.register_blueprint(door)
