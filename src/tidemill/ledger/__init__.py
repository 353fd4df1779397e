"""The metadata store: one SQL database."""
