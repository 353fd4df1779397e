"""scikit-learn, its models kept by skops."""
