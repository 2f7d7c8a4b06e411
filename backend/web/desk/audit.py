"""The audit at the desk."""

from flask import request

from backend.accounts import audit
from backend.web.desk.door import after_key, door, page


@door.get("/audit")
def show_audit() -> str:
    """Show the audit, the newest entries first: all, or those of one act."""
    act = next((each for each in audit.ACTS if each == request.args.get("act")), None)
    return page("audit.html", listed=audit.listed(after_key(), act=act), act=act, acts=sorted(audit.ACTS))
