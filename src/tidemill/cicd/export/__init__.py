"""A service's model as an application of somebody else's framework, that needs no Tidemill."""

from tidemill.cicd.export.code import Export, dockerfile, export_of, identifier, manifest, write_export
from tidemill.cicd.export.runtime import runtime_files

__all__ = ["Export", "dockerfile", "export_of", "identifier", "manifest", "runtime_files", "write_export"]
