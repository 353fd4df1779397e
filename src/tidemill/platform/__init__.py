"""The composition root: configuration and URLs become ports."""
