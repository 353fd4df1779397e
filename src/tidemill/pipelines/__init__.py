"""Steps with a content cache, run as graphs."""
