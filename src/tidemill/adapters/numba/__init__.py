"""Numba: trees scored by kernels that are compiled for the machine they run on."""
