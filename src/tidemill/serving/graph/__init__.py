"""Answering by a graph of models and functions; what a graph is, `tidemill.core.graphs` says."""
