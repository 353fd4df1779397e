"""Labels, quality and drift."""
