"""Validation on one machine: profiles from Arrow and sketches, schemas as YAML files."""

from tidemill.validation.embedded.profiler import SketchProfiler
from tidemill.validation.embedded.schemas import YamlSchemaStore

__all__ = ["SketchProfiler", "YamlSchemaStore"]
