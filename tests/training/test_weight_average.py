import numpy as np
import pytest
import tensorflow as tf

from tests.training.rules import optimizer_of
from tests.training.toy import toy_model
from tfllm.training.distribution import mirrored, one_device


def make(replicas=1, ema_decay=0.5):
    strategy = one_device() if replicas == 1 else mirrored(replicas)
    with strategy.scope():
        model = toy_model()
        optimizer = optimizer_of(
            "sgd", learning_rate=0.1, variables=model.trainable_variables, ema_decay=ema_decay
        )
    return strategy, model, optimizer


def steps(strategy, optimizer, count):
    @tf.function(autograph=False)
    def step():
        gradients = [tf.ones(v.shape) for v in optimizer.trainable]
        return strategy.run(lambda: optimizer.apply(gradients))

    for _ in range(count):
        step()


def weights(model):
    return [v.numpy() for v in model.trainable_variables]


def test_the_average_is_its_formula():
    strategy, model, optimizer = make(ema_decay=0.3)
    model.trainable_variables[0].assign_add(tf.fill(model.trainable_variables[0].shape, 2.0))  # e.g. restored
    weight, average = model.trainable_variables[0].numpy(), 0.0
    for count in range(6):
        steps(strategy, optimizer, 1)
        weight = weight - 0.1
        decay = min(0.3, (1 + count) / (10 + count))
        average = decay * average + (1 - decay) * weight if count else weight
        with optimizer.averaged():
            np.testing.assert_allclose(model.trainable_variables[0].numpy(), average, atol=1e-6)
        np.testing.assert_allclose(model.trainable_variables[0].numpy(), weight, atol=1e-5)


@pytest.mark.parametrize("replicas", [1, 2])
def test_weights_come_back_whatever_happens(replicas):
    strategy, model, optimizer = make(replicas)
    steps(strategy, optimizer, 2)
    before, state = weights(model), [v.numpy() for v in optimizer.variables]
    with pytest.raises(KeyError), optimizer.averaged():
        for inside, outside in zip(weights(model), before, strict=True):
            assert (inside != outside).all()
        for variable in model.trainable_variables:
            first, *others = (c.numpy() for c in strategy.experimental_local_results(variable.value))
            assert all((first == other).all() for other in others)
        raise KeyError
    for ours, theirs in zip(
        [*weights(model), *(v.numpy() for v in optimizer.variables)], [*before, *state], strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_averaging_twice_at_once_is_refused():
    strategy, model, optimizer = make()
    steps(strategy, optimizer, 2)
    before = weights(model)
    with optimizer.averaged(), pytest.raises(RuntimeError, match="already"), optimizer.averaged():
        pass
    with optimizer.averaged():
        assert any((a != b).any() for a, b in zip(weights(model), before, strict=True))


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_without_an_average_nothing_is_exchanged(ema_decay):
    """Where none is kept, and before the first update."""
    strategy, model, optimizer = make(ema_decay=ema_decay)
    if ema_decay is None:
        steps(strategy, optimizer, 1)
    before = weights(model)
    with optimizer.averaged():
        for inside, outside in zip(weights(model), before, strict=True):
            np.testing.assert_array_equal(inside, outside)


def test_the_decay_is_a_share():
    with pytest.raises(ValueError, match=r"ema_decay=1\.0 must lie between 0 and 1"):
        make(ema_decay=1.0)
