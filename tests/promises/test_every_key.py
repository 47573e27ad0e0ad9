"""Every key of every section has a case, and every case is of a key."""

import pytest

from tests.promises import (
    test_data_keys,
    test_evaluation_keys,
    test_generation_keys,
    test_keras_nlp_keys,
    test_model_keys,
    test_optimizer_keys,
    test_peft_keys,
    test_plugin_keys,
    test_source_keys,
    test_task_keys,
    test_training_keys,
)
from tests.promises.keys import all_keys

MODULES = (
    test_data_keys,
    test_evaluation_keys,
    test_generation_keys,
    test_keras_nlp_keys,
    test_model_keys,
    test_optimizer_keys,
    test_peft_keys,
    test_plugin_keys,
    test_source_keys,
    test_task_keys,
    test_training_keys,
)
CASES = {key: case for module in MODULES for key, case in module.CASES.items()}


def test_every_key_has_a_case():
    assert sorted(all_keys().keys() - CASES.keys()) == []


def test_every_case_is_of_a_key():
    assert sorted(CASES.keys() - all_keys().keys()) == []
    assert sum(len(module.CASES) for module in MODULES) == len(CASES), "a key has two cases"


@pytest.mark.parametrize("key", CASES)
def test_a_case_sets_its_key_to_another_value_than_without_it(key):
    case, name = CASES[key], key.rpartition(".")[2].rpartition(":")[2]
    differ = {str(k) for k in {*case.values, *case.without} if case.values.get(k) != case.without.get(k)}
    assert differ, key
    # One of what differs is the key, or holds it: a group, a schedule, a source, a type.
    words = " ".join(f"{k} {case.values.get(k)}" for k in differ)
    assert name in words or key in ("data.train", "sources.source"), (name, words)
