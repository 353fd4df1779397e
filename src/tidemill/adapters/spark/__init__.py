"""Apache Spark: training sets from tables that are too large for one machine (`features.py`)."""
