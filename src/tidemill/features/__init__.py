"""Feature values, equal offline and online."""
