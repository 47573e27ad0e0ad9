"""One optimizer for every rule: state, parameter groups, skipped steps and the weight average."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfllm.training.errors import TrainingError
from tfllm.training.norms import global_norm
from tfllm.training.parameter_groups import (
    Parameter,
    ParameterGroup,
    is_hidden_matrix,
    trained_parameters,
)
from tfllm.training.replica import chosen, local
from tfllm.training.update_rules import AdamW, Moment, Muon, Rule, Rules
from tfllm.training.weight_average import WeightAverage


def make_optimizer(
    rule: Rules,
    *,
    learning_rate: float | Callable[[tf.Tensor], tf.Tensor],
    variables: Iterable[keras.Variable],
    weight_decay: float = 0.0,
    decay_embeddings: bool = False,
    groups: Sequence[ParameterGroup] = (),
    layer_decay: float = 1.0,
    ema_decay: float | None = None,
) -> Optimizer:
    """Builds an optimizer for the given variables.

    Neither clipping nor the sum over replicas is its business: the train step does both, in that order.

    Args:
        rule: How a weight is updated, e.g. `AdamW(beta_2=0.99)`.
        learning_rate: A number, or a schedule of the steps taken.
        variables: The model's trainable variables. Call under `strategy.scope()`.
        weight_decay: Decoupled decay a unit of learning rate; never applied to norms and biases.
        decay_embeddings: Apply it to embedding tables too.
        groups: Variables with a learning rate or decay of their own, or frozen.
        layer_decay: Each block's learning rate over that of the block above it.
        ema_decay: Keep an exponential moving average of the weights, with this decay; None keeps none.

    Returns:
        The optimizer, its state made.

    Raises:
        TrainingError: when a group rules no variable, nothing is left to train, or Muon has no matrix.
    """
    parameters = trained_parameters(
        variables,
        weight_decay=weight_decay,
        decay_embeddings=decay_embeddings,
        groups=groups,
        layer_decay=layer_decay,
    )
    rules = rule.rules([parameter.variable for parameter in parameters])
    return Optimizer(parameters, rules, learning_rate=learning_rate, ema_decay=ema_decay)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MuonAndAdamW:
    """Muon for matrices inside blocks; AdamW for what is none: embeddings, output projection, norms and biases.

    Args:
        momentum: As in `Muon`.
        nesterov: As in `Muon`.
        ns_steps: As in `Muon`.
        beta_1: As in `AdamW`.
        beta_2: As in `AdamW`.
        epsilon: As in `AdamW`.
    """

    momentum: float = Muon.momentum
    nesterov: bool = Muon.nesterov
    ns_steps: int = Muon.ns_steps
    beta_1: float = AdamW.beta_1
    beta_2: float = AdamW.beta_2
    epsilon: float = AdamW.epsilon

    def rules(self, variables: Sequence[keras.Variable]) -> list[Rule]:
        """The rule of each variable.

        Raises:
            TrainingError: when none of them is a matrix inside a block.
        """
        muon = Muon(momentum=self.momentum, nesterov=self.nesterov, ns_steps=self.ns_steps)
        adamw = AdamW(beta_1=self.beta_1, beta_2=self.beta_2, epsilon=self.epsilon)
        rules: list[Rule] = [muon if is_hidden_matrix(variable) else adamw for variable in variables]
        if muon not in rules:
            raise TrainingError(
                "optimizer.type=muon finds no matrix to train inside a block (a path with `block_00`); use adamw"
            )
        return rules


@dataclasses.dataclass(frozen=True)
class _Trained:
    """A variable, its rule and the slots the rule keeps for it."""

    parameter: Parameter
    rule: Rule
    slots: dict[str, keras.Variable]

    def update(
        self, gradient: tf.Tensor, moment: Moment, applied: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Assigns this replica's copies; returns the change of the weight, and the new weight."""
        variable = local(self.parameter.variable)
        weight = tf.convert_to_tensor(variable)
        slots = {name: local(slot) for name, slot in self.slots.items()}
        old = {name: tf.convert_to_tensor(slot) for name, slot in slots.items()}
        new = {
            # Selected before the step reads them, so XLA computes them once, in place.
            name: chosen(applied, value, old[name])
            for name, value in self.rule.remember(gradient, old, moment).items()
        }
        change = self.rule.step(weight, gradient, old, new, moment)
        if moment.decay and not self.rule.owns_decay:
            change = change - moment.rate * moment.decay * weight
        # XLA keeps a quotient that is needed twice. A sum it would compute twice, and before that copy the
        # old weight, whose place the new one takes. The quotient by 1 is exact.
        change = chosen(applied, change, tf.zeros_like(change)) / (moment.count / moment.count)
        weight = weight + change
        variable.assign(weight)
        for name, slot in slots.items():
            slot.assign(new[name])
        return change, weight


class Optimizer:
    """Applies an update rule to every variable it was made for.

    `apply` runs in a replica and touches that replica's copies only, so all of it can be compiled by XLA
    into one program a replica. Copies stay alike because replicas get the same gradients.

    Args:
        parameters: What to train.
        rules: The rule of each.
        learning_rate: A number, or a schedule of the steps taken.
        ema_decay: Decay of the weight average; None keeps none.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        rules: Sequence[Rule],
        *,
        learning_rate: float | Callable[[tf.Tensor], tf.Tensor],
        ema_decay: float | None = None,
    ):
        self._schedule = learning_rate if callable(learning_rate) else lambda step: learning_rate
        self.named_variables: dict[str, keras.Variable] = {}
        self.iterations = self._counter("iterations")
        self.updates = self._counter("updates")
        self._trained = [self._with_slots(*pair) for pair in zip(parameters, rules, strict=True)]
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
            The global L2 norms of the change of all weights, and of the weights after it; float32 scalars.
        """
        iterations, updates = local(self.iterations), local(self.updates)
        done = tf.convert_to_tensor(updates)
        rate, count = self._rate(iterations), tf.cast(done, tf.float32) + 1.0
        changes, weights = [], []
        for trained, gradient in zip(self._trained, gradients, strict=True):
            parameter = trained.parameter
            moment = Moment(rate * parameter.rate_scale, parameter.decay, count)
            change, weight = trained.update(gradient, moment, applied)
            changes.append(change)
            weights.append(weight)
        if self._average is not None:
            self._average.update(weights, done, applied)
        iterations.assign_add(1)
        updates.assign_add(1 if applied is None else tf.cast(applied, tf.int64))
        return global_norm(changes), global_norm(weights)

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
