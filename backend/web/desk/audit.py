"""Read what was done, when and by whom."""

from flask import request

from backend.accounts import audit
from backend.database.paging import Key
from backend.web.desk.door import door, page


@door.get("/audit")
def show_audit() -> str:
    """Show the audit, the newest entries first: all, or those of one act."""
    after, chosen = request.args.get("after"), request.args.get("act")
    act = next((each for each in audit.ACTS if each == chosen), None)
    listed = audit.listed(Key.parse(after) if after else None, act=act)
    return page("audit.html", listed=listed, act=act, acts=sorted(audit.ACTS))
