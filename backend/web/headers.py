"""The security headers of every response."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

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


def with_security_headers(application: "WSGIApplication", *, https: bool) -> "WSGIApplication":
    """Return the application with the security headers in every response; `https` is the public URL's scheme.

    It is WSGI middleware because Flask takes 30 µs to set as many headers, a tenth of a request.
    """
    headers = SECURITY_HEADERS | ({"Strict-Transport-Security": TRANSPORT_SECURITY} if https else {})
    page = [*headers.items(), ("Content-Security-Policy", PAGE_POLICY)]
    data = [*headers.items(), ("Content-Security-Policy", DATA_POLICY)]

    def respond(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
            own = [header for header in headers if header[0] != "Cache-Control"]
            is_page = any(name == "Content-Type" and value.startswith("text/html") for name, value in own)
            return start_response(status, own + (page if is_page else data), *error)

        return application(environ, start)

    return respond
