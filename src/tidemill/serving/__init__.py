"""Answering requests and remembering the answers."""
