"""Apache Kafka: a stream of events, and topics as sources of tables (`ingestion.py`)."""
