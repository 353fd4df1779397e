"""Parameters and metrics of runs."""
