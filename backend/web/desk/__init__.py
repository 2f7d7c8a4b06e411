"""The data manager's desk in the browser."""

from backend.web.desk import feedback, people, requests, sign_in
from backend.web.desk.door import door

# The modules are imported for their pages.
__all__ = ["door", "feedback", "people", "requests", "sign_in"]
