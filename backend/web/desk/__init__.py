"""The data manager's desk in the browser."""

from backend.web.desk import announcements, audit, feedback, people, policies, requests, sign_in
from backend.web.desk.door import door

# The modules are imported for their pages.
__all__ = ["announcements", "audit", "door", "feedback", "people", "policies", "requests", "sign_in"]
