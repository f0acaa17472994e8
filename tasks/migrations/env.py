"""Alembic's entry: runs the revisions over the connection, and in the transaction, that the ledger hands in."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
