"""Versions on the local disk: Iceberg tables through pyiceberg, and content-addressed files.

`IcebergTableStore` is imported when it is asked for: a server that only fetches models does not pay for pyiceberg.
"""

from typing import TYPE_CHECKING, Any

from tidemill.versioning.embedded.blobs import FileBlobStore

if TYPE_CHECKING:
    from tidemill.versioning.embedded.tables import IcebergTableStore

__all__ = ["FileBlobStore", "IcebergTableStore"]


def __getattr__(name: str) -> Any:
    if name != "IcebergTableStore":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tidemill.versioning.embedded.tables import IcebergTableStore

    return IcebergTableStore
