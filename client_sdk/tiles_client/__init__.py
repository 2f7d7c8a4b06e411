"""A small, typed Python client for a TILES accounts service."""

from . import errors, models
from .client import AsyncClient, Client
from .errors import *  # noqa: F403 (one list of exceptions, in errors)

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "errors", "models"]
__all__ += errors.__all__
