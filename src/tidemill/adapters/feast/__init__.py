"""Feast: its repositories in (`importer`), and ours out as one of its repositories (`exporter`). Feast itself runs in its own Python."""
