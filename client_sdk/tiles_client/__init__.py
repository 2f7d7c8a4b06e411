"""A small, typed Python client for a TILES accounts service."""

from . import errors, models
from .client import AsyncClient, Client
from .errors import ServiceRefused, ServiceUnreachable, TilesError

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "ServiceRefused", "ServiceUnreachable", "TilesError", "errors", "models"]
