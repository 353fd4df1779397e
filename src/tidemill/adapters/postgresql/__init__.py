"""PostgreSQL: the ledger (`ledger.py`)."""
