"""Tables by snapshot, files by digest."""
