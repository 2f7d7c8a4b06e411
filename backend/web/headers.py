"""The headers that every answer has: what a browser, a cache or another site may do with it."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

POLICY = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; "
PAGE_POLICY = (
    f"{POLICY}style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
# What is no page loads, sends and runs nothing, should a browser open it as one.
DATA_POLICY = f"{POLICY}form-action 'none'; sandbox"
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
# A year (RFC 6797); whether other hosts of the domain have TLS is not ours to say, and no cookie could be set by them.
TRANSPORT_SECURITY = "max-age=31536000"

# Named here: within a function that is made for each answer they would be made for each too.
_Headers = list[tuple[str, str]]
_Write = Callable[[bytes], object]


class Headed:
    """Gives every answer its headers, past the framework's own bookkeeping about each."""

    def __init__(self, inner: "WSGIApplication", *, https: bool) -> None:
        """Stand before an application that people reach by `https` or not."""
        self._inner = inner
        headers = SECURITY_HEADERS | ({"Strict-Transport-Security": TRANSPORT_SECURITY} if https else {})
        self._of_page = list((headers | {"Content-Security-Policy": PAGE_POLICY}).items())
        self._of_data = list((headers | {"Content-Security-Policy": DATA_POLICY}).items())
        self._names = {name.lower() for name, _ in self._of_page}

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer as the application does, with these headers instead of its own."""

        def start(status: str, headers: _Headers, *error: Any) -> _Write:
            own = [header for header in headers if header[0].lower() not in self._names]
            page = any(name == "Content-Type" and value.startswith("text/html") for name, value in own)
            return start_response(status, own + (self._of_page if page else self._of_data), *error)

        return self._inner(environ, start)
