"""Training sets and models."""
