"""Migrations of the stand-in: one transaction a revision, on the database of DATABASE_URL."""

import os

from alembic import context
from sqlalchemy import create_engine

url = os.environ.get("DATABASE_URL", "").replace("postgresql://", "postgresql+psycopg://", 1)
with create_engine(url).connect() as connection:
    context.configure(connection=connection, target_metadata=None, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
