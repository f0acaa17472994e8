"""Revisions of the ledger's tables; each is one file in `versions`, named in `ledger_tables.REVISIONS`."""
