"""Redis: the online store of features (`features.py`)."""
