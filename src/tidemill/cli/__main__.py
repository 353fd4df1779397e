"""`python -m tidemill.cli` is the command line."""

from tidemill.cli import main

main()
