"""Rows come in: audited on a branch, then published."""
