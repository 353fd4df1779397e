"""The parts of `benchmarks/features.py`: data, hand-written floors and tasks."""
