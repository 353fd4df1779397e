"""From published rows to labels."""

import pyarrow as pa

from tidemill.core.definitions import Label
from tidemill.monitoring.ports import LabelStore


def sync_labels(label: Label, rows: pa.Table, labels: LabelStore) -> int:
    """Write what `rows`, published rows of the label's table, say about `label`; return how many statements were new.

    Doing it again with the same rows adds nothing, so a killed loop may simply repeat it.

    Raises:
        InvalidError: the expression or a column it needs is wrong.
    """
    return labels.write(labels.derive(label, rows)) if rows.num_rows else 0
