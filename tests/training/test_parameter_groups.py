import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.rules import optimizer_of
from tfllm.training.errors import TrainingError
from tfllm.training.parameter_groups import ParameterGroup, depths, trained_parameters

PATHS = {
    "decoder/token_embedding/embeddings": [5, 2],
    "decoder/block_00/attention/query/kernel": [2, 2],
    "decoder/block_00/attention_norm/scale": [2],
    "decoder/block_01/attention/query/kernel": [2, 2],
    "decoder/final_norm/scale": [2],
    "decoder/output_projection/kernel": [2, 5],
}


def variables(paths=PATHS):
    made = []
    for path, shape in paths.items():
        *scopes, name = path.split("/")
        with contextlib.ExitStack() as stack:
            for scope in scopes:
                stack.enter_context(keras.name_scope(scope))
            made.append(keras.Variable(np.ones(shape, np.float32), name=name))
    assert [v.path for v in made] == list(paths)
    return made


def settled(*groups, **settings):
    parameters = trained_parameters(variables(), groups=[ParameterGroup(**g) for g in groups], **settings)
    return {p.variable.path: (pytest.approx(p.rate_scale), p.decay) for p in parameters}


def test_the_first_group_that_matches_rules():
    got = settled(
        {"pattern": "decoder/block_0[1-9]/*", "learning_rate_scale": 0.5, "weight_decay": 0.3},
        {"pattern": "*/kernel", "learning_rate_scale": 0.1},
        {"pattern": "*embeddings", "freeze": True},
        weight_decay=0.2,
    )
    assert got == {
        "decoder/block_00/attention/query/kernel": (0.1, 0.2),
        "decoder/block_00/attention_norm/scale": (1.0, 0.0),
        "decoder/block_01/attention/query/kernel": (0.5, 0.3),
        "decoder/final_norm/scale": (1.0, 0.0),
        "decoder/output_projection/kernel": (0.1, 0.2),
    }


def test_a_group_decays_no_norm_and_embeddings_where_asked_for():
    everything = {"pattern": "*", "weight_decay": 0.3}
    assert {path for path, (_, decay) in settled(everything).items() if decay} == {
        path for path in PATHS if path.endswith("kernel")
    }
    assert settled(everything, decay_embeddings=True)["decoder/token_embedding/embeddings"] == (1.0, 0.3)


def test_lower_blocks_learn_slower():
    got = settled({"pattern": "*/block_01/*", "learning_rate_scale": 3.0}, layer_decay=0.5)
    assert {path: scale for path, (scale, _) in got.items()} == {
        "decoder/token_embedding/embeddings": 0.125,
        "decoder/block_00/attention/query/kernel": 0.25,
        "decoder/block_00/attention_norm/scale": 0.25,
        "decoder/block_01/attention/query/kernel": 1.5,
        "decoder/final_norm/scale": 1.0,
        "decoder/output_projection/kernel": 1.0,
    }


def test_stacks_are_counted_each_on_its_own():
    paths = [f"t5/encoder/block_{i:02d}/mlp/kernel" for i in range(12)]
    paths += [
        "t5/decoder/block_00/mlp/kernel",
        "t5/shared_embedding/embeddings",
        "t5/decoder/final_norm/scale",
    ]
    assert depths(paths) == [*range(12, 0, -1), 1, 13, 0]


def test_scale_decay_and_freezing_reach_the_weights():
    model = variables()
    groups = [
        ParameterGroup(pattern="*block_00*", freeze=True),
        ParameterGroup(pattern="*block_01*", learning_rate_scale=0.5, weight_decay=0.4),
    ]
    optimizer = optimizer_of("sgd", learning_rate=0.1, weight_decay=0.2, variables=model, groups=groups)
    assert [v.path for v in optimizer.trainable] == [path for path in PATHS if "block_00" not in path]
    optimizer.apply([tf.ones(v.shape) for v in optimizer.trainable])
    expected = {
        "decoder/token_embedding/embeddings": 1 - 0.1,
        "decoder/block_00/attention/query/kernel": 1.0,
        "decoder/block_00/attention_norm/scale": 1.0,
        "decoder/block_01/attention/query/kernel": 1 - 0.05 - 0.05 * 0.4,
        "decoder/final_norm/scale": 1 - 0.1,
        "decoder/output_projection/kernel": 1 - 0.1 - 0.1 * 0.2,
    }
    for variable in model:
        np.testing.assert_allclose(
            variable.numpy(), expected[variable.path], rtol=1e-6, err_msg=variable.path
        )


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (
            ["*", "decoder/block_02/atention/*"],
            r"groups\[1\].pattern=decoder/block_02/atention/\* matches no",
        ),
        (["decoder/block_02/attention/*"], "there are for example .*decoder/block_01/attention/query/kernel"),
        (
            ["*kernel", "decoder/block_00/attention/query/*"],
            r"groups\[1\].*only variables that a group above",
        ),
        (["DECODER/*"], "matches no variable"),
    ],
)
def test_a_group_that_rules_nothing_is_refused(patterns, words):
    with pytest.raises(TrainingError, match=words):
        settled(*({"pattern": pattern} for pattern in patterns))


def test_something_must_be_left_to_train():
    with pytest.raises(TrainingError, match=r"freezes all 6 variables \(by '\*'\)"):
        settled({"pattern": "*", "freeze": True})
    with pytest.raises(TrainingError, match="no trainable variables"):
        trained_parameters([])


def test_layer_decay_needs_blocks():
    plain = variables({"dense/kernel": [2, 2]})
    assert trained_parameters(plain)[0].rate_scale == 1.0
    with pytest.raises(TrainingError, match="no variable path holds `block_00`"):
        trained_parameters(plain, layer_decay=0.9)
