"""Three steps of an optimizer under a strategy, one of them skipped; as a script, on one of several workers."""

import hashlib
import sys

import numpy as np
import tensorflow as tf

from tests.training.rules import optimizer_of
from tests.training.toy import toy_model

STEPS, SKIPPED = 3, 1


def gradients_of(step, variables):
    rng = np.random.default_rng(step)
    return [tf.constant(rng.normal(size=v.shape), tf.float32) for v in variables]


def take_steps(strategy, kind, *, jit_compile=False, **settings):
    """Weights and state on every replica of this process: [{name: array} for each replica]."""
    with strategy.scope():
        model = toy_model()
        optimizer = optimizer_of(
            kind,
            learning_rate=lambda i: 0.1 / tf.cast(i + 1, tf.float32),
            variables=model.trainable_variables,
            **settings,
        )
    gradients = [gradients_of(step, optimizer.trainable) for step in range(STEPS)]
    stacked = [tf.stack(parts) for parts in zip(*gradients, strict=True)]
    apply = (
        tf.function(optimizer.apply, jit_compile=True, autograph=False) if jit_compile else optimizer.apply
    )

    @tf.function(autograph=False)
    def run():
        def body(index):
            applied = tf.not_equal(index, SKIPPED)
            strategy.run(lambda: apply([g[index] for g in stacked], applied=applied))
            return (index + 1,)

        tf.while_loop(lambda index: index < STEPS, body, (tf.constant(0),))

    run()
    named = {**{v.path: v for v in model.variables}, **optimizer.named_variables}
    copies = {name: strategy.experimental_local_results(v.value) for name, v in named.items()}
    count = len(copies["iterations"])
    return [{name: values[i].numpy() for name, values in copies.items()} for i in range(count)]


def digest(state):
    """A hash of every bit of what `take_steps` returns for a replica."""
    whole = hashlib.sha256()
    for name, value in sorted(state.items()):
        whole.update(name.encode() + value.tobytes())
    return whole.hexdigest()


def main(kind):
    states = take_steps(tf.distribute.MultiWorkerMirroredStrategy(), kind, weight_decay=0.1, ema_decay=0.9)
    print("digests", *map(digest, states))


if __name__ == "__main__":
    main(sys.argv[1])
