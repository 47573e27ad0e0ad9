"""The key `plugins`, in what is built of a type that only a plug-in has."""

import pytest

from tests.plugin_package.forget import TYPES, forgotten
from tests.promises.case import Case, hold
from tests.promises.runs import mapping
from tfllm import experiment
from tfllm.config import ConfigError, config_from_mapping


class Built:
    def __init__(self, values):
        self.documents: list[str] = []
        self.error = ""
        with forgotten():
            try:
                config = config_from_mapping(mapping("unused", **values))
            except ConfigError as error:
                self.error = str(error)
                return
            self.documents = list(experiment.make_source(config.data.train).documents())


def _tells_of_doors(built):
    assert built.documents == [
        "The 0th door opens when the 1th one is shut.",
        "The 1th door opens when the 2th one is shut.",
    ]


DATA = {"train": {"type": "doors", "count": 2}, "seq_len": 16}
CASES = {"plugins": Case(_tells_of_doors, {"plugins": [TYPES], "data": DATA}, {"data": DATA})}


@pytest.mark.parametrize("key", CASES)
def test_the_key_brings_the_types(key):
    hold(CASES[key], Built)


def test_without_it_the_type_is_not_known():
    assert "data.train.type=doors is not a known data source" in Built({"data": DATA}).error
