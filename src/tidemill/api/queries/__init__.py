"""Bounded reads behind both the JSON routes and the console's pages: every listing is paged, none touches all of a table."""
