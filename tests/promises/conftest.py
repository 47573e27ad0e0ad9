import pytest

from tests.promises.runs import Runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Trainings that several files may look at; do not write to their folders."""
    return Runs(tmp_path_factory.mktemp("promises"))
