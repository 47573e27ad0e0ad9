"""One optimizer for every rule: state, parameter groups, skipped steps and the weight average."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfllm.training.parameter_groups import Parameter, ParameterGroup, trained_parameters
from tfllm.training.replica import chosen, local
from tfllm.training.update_rules import SGD, Adafactor, AdamW, Lion, Moment, Rule
from tfllm.training.weight_average import WeightAverage

OPTIMIZERS: dict[str, type[Rule]] = {rule.name: rule for rule in (AdamW, Lion, Adafactor, SGD)}


def make_optimizer(
    kind: str,
    *,
    learning_rate: float | Callable[[tf.Tensor], tf.Tensor],
    variables: Iterable[keras.Variable],
    weight_decay: float = 0.0,
    decay_embeddings: bool = False,
    groups: Sequence[ParameterGroup] = (),
    layer_decay: float = 1.0,
    ema_decay: float | None = None,
    **arguments: Any,
) -> Optimizer:
    """Builds an optimizer for the given variables.

    Neither clipping nor the sum over replicas is its business: the train step does both, in that order.

    Args:
        kind: One of `OPTIMIZERS`.
        learning_rate: A number, or a schedule of the steps taken.
        variables: The model's trainable variables. Call under `strategy.scope()`.
        weight_decay: Decoupled decay a unit of learning rate; never applied to norms and biases.
        decay_embeddings: Apply it to embedding tables too.
        groups: Variables with a learning rate or decay of their own, or frozen.
        layer_decay: Each block's learning rate over that of the block above it.
        ema_decay: Keep an exponential moving average of the weights, with this decay; None keeps none.
        arguments: The rule's own, e.g. `beta_1`.

    Returns:
        The optimizer, its state made.

    Raises:
        TrainingError: when a group rules no variable, or nothing is left to train.
    """
    if kind not in OPTIMIZERS:
        raise ValueError(f"optimizer kind={kind!r} is not known; use one of {sorted(OPTIMIZERS)}")
    parameters = trained_parameters(
        variables,
        weight_decay=weight_decay,
        decay_embeddings=decay_embeddings,
        groups=groups,
        layer_decay=layer_decay,
    )
    rule = OPTIMIZERS[kind](**arguments)
    return Optimizer(parameters, lambda parameter: rule, learning_rate=learning_rate, ema_decay=ema_decay)


@dataclasses.dataclass(frozen=True)
class _Trained:
    parameter: Parameter
    rule: Rule
    slots: dict[str, keras.Variable]


class Optimizer:
    """Applies an update rule to every variable it was made for.

    `apply` runs in a replica and touches that replica's copies only, so all of it can be compiled by XLA
    into one program a replica. Copies stay alike because replicas get the same gradients.

    Args:
        parameters: What to train.
        rule_of: The rule of each.
        learning_rate: A number, or a schedule of the steps taken.
        ema_decay: Decay of the weight average; None keeps none.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        rule_of: Callable[[Parameter], Rule],
        *,
        learning_rate: float | Callable[[tf.Tensor], tf.Tensor],
        ema_decay: float | None = None,
    ):
        self._schedule = learning_rate if callable(learning_rate) else lambda step: learning_rate
        self.named_variables: dict[str, keras.Variable] = {}
        self.iterations = self._counter("iterations")
        self.updates = self._counter("updates")
        self._trained = [self._with_slots(parameter, rule_of(parameter)) for parameter in parameters]
        self._average = None
        if ema_decay is not None:
            self._average = WeightAverage(self.trainable, decay=ema_decay)
            self.named_variables.update(self._average.named_variables)

    @property
    def trainable(self) -> list[keras.Variable]:
        """The model's variables it updates, in the order in which `apply` wants gradients."""
        return [trained.parameter.variable for trained in self._trained]

    @property
    def variables(self) -> list[keras.Variable]:
        """All its state: float32 but for the counters, int64."""
        return list(self.named_variables.values())

    @property
    def learning_rate(self) -> tf.Tensor:
        """The rate of the step about to be taken, before a variable's own scale; float32 scalar."""
        return self._rate(local(self.iterations))

    def apply(
        self, gradients: Sequence[tf.Tensor], *, applied: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Takes one step. Call in a replica context.

        Args:
            gradients: float32, one for each of `trainable`; already summed over replicas, divided and
                clipped, hence the same on every replica.
            applied: bool scalar. Where false, the step is counted and changes nothing else, whatever
                the gradients hold. None is true.

        Returns:
            The global L2 norm of the change of all weights, and of the weights before it; float32 scalars.
        """
        iterations, updates = local(self.iterations), local(self.updates)
        done = tf.convert_to_tensor(updates)
        rate, count = self._rate(iterations), tf.cast(done, tf.float32) + 1.0
        changes, sizes = [], []
        for index, (trained, gradient) in enumerate(zip(self._trained, gradients, strict=True)):
            parameter = trained.parameter
            moment = Moment(rate * parameter.rate_scale, parameter.decay, count)
            variable = local(parameter.variable)
            slots = {name: local(slot) for name, slot in trained.slots.items()}
            old = {name: tf.convert_to_tensor(slot) for name, slot in slots.items()}
            weight = tf.convert_to_tensor(variable)
            new_weight, new = trained.rule.update(weight, gradient, old, moment)
            new_weight = chosen(applied, new_weight, weight)
            changes.append(tf.reduce_sum(tf.square(new_weight - weight)))
            sizes.append(tf.reduce_sum(tf.square(weight)))
            if self._average is not None:
                self._average.update(index, weight, new_weight, done, applied)
            variable.assign(new_weight)
            for name, slot in slots.items():
                slot.assign(chosen(applied, new[name], old[name]))
        iterations.assign_add(1)
        updates.assign_add(1 if applied is None else tf.cast(applied, tf.int64))
        return tf.sqrt(tf.add_n(changes)), tf.sqrt(tf.add_n(sizes))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Exchanges the model's weights and their average, and exchanges them back at the end.

        Call outside graphs. Does nothing where no average is kept, or before the first update.
        """
        if self._average is None or int(self.updates.numpy()) == 0:
            yield
            return
        with self._average.exchanged():
            yield

    def _rate(self, iterations: Any) -> tf.Tensor:
        return tf.cast(self._schedule(tf.convert_to_tensor(iterations)), tf.float32)

    def _with_slots(self, parameter: Parameter, rule: Rule) -> _Trained:
        slots, variable = {}, parameter.variable
        for name, shape in rule.slots(tuple(variable.shape)).items():
            slots[name] = keras.Variable("zeros", shape=shape, dtype="float32", trainable=False, name=name)
            full_name = f"{rule.name}/{name}/{variable.path}"
            if full_name in self.named_variables:
                raise ValueError(f"two variables have the path {variable.path}; name their layers apart")
            self.named_variables[full_name] = slots[name]
        return _Trained(parameter, rule, slots)

    def _counter(self, name: str) -> keras.Variable:
        counter = keras.Variable("zeros", shape=(), dtype="int64", trainable=False, name=name)
        self.named_variables[name] = counter
        return counter
