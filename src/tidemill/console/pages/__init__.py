"""One file per page: read what is needed, hand it to a template."""
