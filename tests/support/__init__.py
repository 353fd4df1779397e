"""What tests share: the sample year, a console over it, a browser."""
