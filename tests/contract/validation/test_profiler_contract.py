import pytest

from tidemill.testing.validation import ProfilerContract
from tidemill.validation.embedded import SketchProfiler
from tidemill.validation.ports import Profiler


class TestSketchProfiler(ProfilerContract):
    @pytest.fixture
    def profiler(self) -> Profiler:
        return SketchProfiler()
