"""The HTTP API: JSON under /api/v1, read through the ports, errors mapped to status codes here and nowhere else."""
