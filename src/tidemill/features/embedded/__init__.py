"""The embedded feature stores: DuckDB and NumPy offline, SQLite and in-process tiles online."""

from tidemill.features.embedded.lookup import OnlineLookup
from tidemill.features.embedded.offline import DuckOfflineStore
from tidemill.features.embedded.online import SqliteOnlineStore
from tidemill.features.embedded.processor import TileProcessor
from tidemill.features.embedded.published import lookup_in
from tidemill.features.embedded.reader import OnlineReader
from tidemill.features.embedded.versions import ViewProcessor

__all__ = ["DuckOfflineStore", "OnlineLookup", "OnlineReader", "SqliteOnlineStore", "TileProcessor", "ViewProcessor", "lookup_in"]
