"""Everything that a container image of one service needs, in one folder."""

from tidemill.cicd.image.context import Image, facts_of, write_context

__all__ = ["Image", "facts_of", "write_context"]
