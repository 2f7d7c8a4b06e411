"""The service and the mail server that all lives of a run share."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, Envelope
from aiosmtpd.smtp import Session as Connection
from lifecycle_model import World
from peers import MailServer
from sqlalchemy import delete, select
from support import Service

from backend import clock
from backend.database import engine
from backend.database.engine import transaction
from backend.database.inventory import tables_about_people
from backend.database.models import Announcement
from backend.privacy import ledger

TABLES = tables_about_people()


class PostOffice(MailServer):
    """A mail server that accepts some emails late, some never, and some twice because its reply is lost."""

    way: dict[str, str]

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, server: SMTP, session: Connection, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.refuse = {"late": "451 4.7.1 try again later", "never": "550 5.1.1 no such mailbox"}.get(
            self.way.get(address, "")
        )
        return await super().handle_RCPT(server, session, envelope, address, options)

    async def handle_DATA(self, server: SMTP, session: Connection, envelope: Envelope) -> str:  # noqa: N802
        reply = await super().handle_DATA(server, session, envelope)
        return "451 4.3.0 lost" if self.way.get(envelope.rcpt_tos[0]) == "twice" else reply


@dataclass
class Run:
    """The state that all examples of a test share."""

    service: Service
    monkeypatch: pytest.MonkeyPatch
    reached: Counter[str] = field(default_factory=Counter)
    alike: dict[str, tuple[int, list[tuple[str, str]], bytes]] = field(default_factory=dict)

    def begin(self, world: World) -> None:
        """Delete everybody, and let the service use the model's clock."""
        self.monkeypatch.setattr(clock, "now", lambda: world.now)
        with self.service.app.app_context():
            with transaction() as session:
                for table in [*TABLES, Announcement.__table__]:
                    session.execute(delete(table))
            ledger.path().unlink(missing_ok=True)
        self.service.mail_server.messages.clear()
        self.service.mail_server.envelopes.clear()

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Return every row about people."""
        with self.service.app.app_context(), engine.db.engine.connect() as connection:
            return {
                table.name: [dict(row) for row in connection.execute(select(table).order_by(table.c.id)).mappings()]
                for table in TABLES
            }
