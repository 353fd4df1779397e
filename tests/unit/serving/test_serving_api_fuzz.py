"""What Schemathesis makes of the server's own OpenAPI description finds no 5xx and no crash. `TIDEMILL_FUZZ_S=600` is for nights."""

import os
from pathlib import Path

import pytest
from tests.support.api_fuzz import fuzz


@pytest.mark.slow
def test_no_request_that_the_description_leads_to_is_a_5xx(tmp_path: Path) -> None:
    code, told, log = fuzz(tmp_path, int(os.environ.get("TIDEMILL_FUZZ_S", "15")))
    assert code == 0, told
    assert "Traceback" not in log
