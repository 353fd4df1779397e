"""Peers of the benchmarks, each run by the interpreter of its own virtual environment."""
