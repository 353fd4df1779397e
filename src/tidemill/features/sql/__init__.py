"""The feature compiler: a feature view's point-in-time join as SQL that DuckDB and Spark run. Needs sqlglot (extra `sql`)."""
