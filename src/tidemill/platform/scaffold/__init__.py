"""What `tidemill init` writes: a small project whose whole loop runs in half a minute."""

from tidemill.platform.scaffold.project import write_project

__all__ = ["write_project"]
