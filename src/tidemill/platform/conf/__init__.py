"""The configuration that ships with Tidemill; a project's `conf/` stands in front of it."""
