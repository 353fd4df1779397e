"""Tidemill runs the whole machine-learning lifecycle as one closed loop."""
