"""The pytest plugin that ships with Tidemill."""
