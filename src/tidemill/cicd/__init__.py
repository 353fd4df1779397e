"""From a commit to something that runs."""
