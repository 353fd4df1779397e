"""Model versions and aliases."""

from tidemill.registry.codecs import ModelVersionCodec
from tidemill.registry.steps import register

__all__ = ["ModelVersionCodec", "register"]
