"""The data manager's desk in the browser."""

from backend.web.desk import people, sign_in
from backend.web.desk.door import door

# The modules are imported for their pages.
__all__ = ["door", "people", "sign_in"]
