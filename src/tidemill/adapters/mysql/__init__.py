"""MySQL and MariaDB: the ledger (`ledger.py`)."""
