import pytest
from tests.support.client import Client
from tests.support.console_server import build
from tests.support.sample_platform import SamplePlatform, sample


@pytest.fixture(scope="package")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SamplePlatform:
    return sample(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="package")
def client(platform: SamplePlatform) -> Client:
    return Client(*build(platform))
