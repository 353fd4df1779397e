"""Routes of /api/v1, one file per stage."""
