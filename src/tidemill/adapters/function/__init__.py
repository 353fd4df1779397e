"""Python functions of the project as models, each called in a process of its own."""
