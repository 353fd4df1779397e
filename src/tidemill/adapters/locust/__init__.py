"""Locust: a load test of a service with the requests that it was really asked (`write.py`), run and read back (`run.py`)."""
