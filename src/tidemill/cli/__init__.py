"""The command line: one file per stage; a command parses, calls one function and prints."""

from tidemill.cli.app import main

__all__ = ["main"]
