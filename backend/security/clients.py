"""Whose requests are counted together: a client and the networks around it, and a mailbox."""

import ipaddress
import socket
from contextlib import suppress

_IPV6 = "ipv6:"
# The hexadecimal digits of a /64, a /56 and a /48, and how many times a client's allowance each has (RFC 6177).
_NETWORKS = ((16, 1), (14, 2), (12, 4))


def client_key(address: str | None) -> str:
    """Return what stands for a client: its IPv4 address, or the /64 that an IPv6 customer has at least.

    Some proxies add the port, and some write nonsense: all who come with that share one limit.
    """
    text = (address or "").strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    with suppress(OSError, ValueError):
        # As most are; the library below takes twenty times as long.
        socket.inet_pton(socket.AF_INET, text)
        return text
    try:
        ip = ipaddress.IPv6Address(text)
    except ValueError:
        return "unknown"
    return str(ip.ipv4_mapped) if ip.ipv4_mapped else f"{_IPV6}{int(ip) >> 64:016x}"


def networks(client: str) -> list[tuple[str, int]]:
    """Return a client and the networks that it is in, each with how many times a client's allowance it has."""
    if not client.startswith(_IPV6):
        return [(client, 1)]
    return [(client[: len(_IPV6) + digits], times) for digits, times in _NETWORKS]


def mailbox(email: str) -> str:
    """Return what many addresses lead to: the address in lower case, without what follows a + before the @."""
    local, _, domain = email.lower().rpartition("@")
    return f"{local[:1] + local[1:].partition('+')[0]}@{domain}"
