"""The headers of every response: security headers, and the name of the request in the log."""

import random
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from backend.logs import REQUEST_ID

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_NOTHING = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; "
PAGE_POLICY = (
    f"{_NOTHING}style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
# For a response that is not a page, in case a browser opens it as one.
DATA_POLICY = f"{_NOTHING}form-action 'none'; sandbox"
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Origin-Agent-Cluster": "?1",
    "Permissions-Policy": (
        "accelerometer=(), browsing-topics=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), hid=(), "
        "idle-detection=(), local-fonts=(), magnetometer=(), microphone=(), midi=(), payment=(), screen-wake-lock=(), "
        "serial=(), usb=(), xr-spatial-tracking=()"
    ),
    "Server": "TILES",
    "X-Permitted-Cross-Domain-Policies": "none",
}
# One year (RFC 6797), without includeSubDomains: the domain's other hosts are not ours.
TRANSPORT_SECURITY = "max-age=31536000"


_RANDOM_ID = re.compile("[0-9a-f]{32}")


def with_headers(application: "WSGIApplication", *, https: bool, is_proxied: bool) -> "WSGIApplication":
    """Return the application with these headers in every response; `https` is the public URL's scheme.

    It is WSGI middleware because Flask takes 30 µs to set as many headers, a tenth of a request.
    """
    headers = SECURITY_HEADERS | ({"Strict-Transport-Security": TRANSPORT_SECURITY} if https else {})
    page = [*headers.items(), ("Content-Security-Policy", PAGE_POLICY)]
    data = [*headers.items(), ("Content-Security-Policy", DATA_POLICY)]

    def respond(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        request_id = environ.get("HTTP_X_REQUEST_ID", "") if is_proxied else ""
        # The proxy's name of the request is taken only if it is random, so that it names nobody.
        if not _RANDOM_ID.fullmatch(request_id):
            # It is no secret, and `secrets` would give the GIL away, which costs 8 % of a short request.
            request_id = f"{random.getrandbits(128):032x}"
        environ[REQUEST_ID] = request_id

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
            own = [header for header in headers if header[0] != "Cache-Control"]
            is_page = any(name == "Content-Type" and value.startswith("text/html") for name, value in own)
            all_headers = [*own, ("X-Request-Id", request_id), *(page if is_page else data)]
            return start_response(status, all_headers, *error)

        return application(environ, start)

    return respond
