"""How Alembic runs: always on the connection that `schema.upgrade` has locked and hands over."""

from alembic import context

from backend.database import desk_tables, models, service_tables  # noqa: F401 - fills the metadata
from backend.database.engine import Base, db

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=db.metadatas.get(None, Base.metadata),
)
context.run_migrations()
