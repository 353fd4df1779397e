"""Closes the loop: triggers, gates, rollouts, reconciliation, replay."""
