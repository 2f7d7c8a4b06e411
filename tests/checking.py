"""Run one probe of `tiles check`."""

from support import Service

from backend.commands.check import PROBES

Levels = dict[str, str]


def probe(service: Service, name: str) -> Levels:
    """Run one probe."""
    with service.app.app_context():
        return {finding.code: finding.level for finding in PROBES[name][0]() if finding.level != "fine"}
