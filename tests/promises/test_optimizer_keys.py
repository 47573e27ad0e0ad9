"""The keys of all optimizers, their schedules and groups: the weights after some steps are those of the formulas."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.marks import mostly_slow
from tests.promises.case import Case, hold
from tests.promises.optimizer_reference import RULES, trained
from tests.promises.runs import mapping
from tfllm import experiment
from tfllm.config import config_from_mapping
from tfllm.config.build import to_mapping
from tfllm.experiment.run_folder import RunFolder
from tfllm.experiment.setup import TrainingSetup
from tfllm.training.display import Display
from tfllm.training.distribution import one_device

STEPS, TOTAL, LAYERS = 3, 6, 2
SHARED = {
    "learning_rate": 0.03,
    "weight_decay": 0.5,
    "decay_embeddings": True,
    "layer_decay": 0.5,
    "ema_decay": 0.05,
}
OWN = {
    "adamw": {"beta_1": 0.5, "beta_2": 0.5, "epsilon": 0.1},
    "lamb": {"beta_1": 0.5, "beta_2": 0.5, "epsilon": 0.1},
    "lion": {"beta_1": 0.2, "beta_2": 0.5},
    "sgd": {"momentum": 0.8, "nesterov": True},
    "adafactor": {"relative_step": True},
    "muon": {
        **{"momentum": 0.5, "nesterov": False, "ns_steps": 2},
        **{"beta_1": 0.5, "beta_2": 0.5, "epsilon": 0.1},
    },
}
# What else a key needs to show: a step long enough to be held back, a velocity to look along.
BESIDE = {
    ("adafactor", "relative_step"): {"learning_rate": 5.0, "weight_decay": 0.0},
    ("sgd", "nesterov"): {"momentum": 0.8},
}
GROUPS = {
    "pattern": [{"pattern": "decoder/block_01/*", "learning_rate_scale": 3.0}],
    "learning_rate_scale": [{"pattern": "*", "learning_rate_scale": 3.0}],
    "weight_decay": [{"pattern": "*/kernel", "weight_decay": 0.9}],
    "freeze": [{"pattern": "decoder/block_00/*", "freeze": True}],
}
WITHOUT_GROUP = {
    "pattern": [{"pattern": "decoder/block_00/*", "learning_rate_scale": 3.0}],
    "learning_rate_scale": [{"pattern": "*"}],
    "weight_decay": [{"pattern": "*/kernel"}],
    "freeze": [{"pattern": "decoder/block_00/*"}],
}
SCHEDULES = {
    "constant": {"warmup_steps": 3, "warmup_fraction": 0.4},
    "cosine": {"warmup_steps": 2, "warmup_fraction": 0.4, "final_fraction": 0.7},
    "linear": {"warmup_steps": 2, "warmup_fraction": 0.4, "final_fraction": 0.7},
    "wsd": {"warmup_steps": 2, "warmup_fraction": 0.4, "decay_fraction": 0.9, "final_fraction": 0.7},
}


def _key_in(kind, key, value):
    beside = {"type": kind, "learning_rate": 0.02, "weight_decay": 0.1, "schedule": "constant"}
    beside |= BESIDE.get((kind, key), {})
    return Case(
        lambda made: agrees_with(made, {**beside, key: value}),
        {**beside, key: value},
        {k: v for k, v in beside.items() if k != key},
    )


def _schedule(kind, key, value):
    plain = {"type": kind, **({"decay_fraction": 0.9} if (kind, key) == ("wsd", "final_fraction") else {})}
    section = {"learning_rate": 0.02, "schedule": {**plain, key: value}}
    return Case(lambda made: agrees_with(made, section), section, {**section, "schedule": plain})


def _group(groups, without):
    return Case(lambda made: agrees_with(made, {"groups": groups}), {"groups": groups}, {"groups": without})


FORMULAS = {
    **{f"optimizer:{t}.{k}": _key_in(t, k, v) for t in RULES for k, v in {**SHARED, **OWN[t]}.items()},
    **{
        f"optimizer:{t}.groups": Case(
            lambda made, t=t: agrees_with(made, {"type": t, "groups": GROUPS["freeze"]}),
            {"type": t, "groups": GROUPS["freeze"]},
            {"type": t},
        )
        for t in RULES
    },
    **{f"groups.{key}": _group(GROUPS[key], WITHOUT_GROUP[key]) for key in GROUPS},
    **{f"schedule:{t}.{k}": _schedule(t, k, v) for t, keys in SCHEDULES.items() for k, v in keys.items()},
    **{
        f"schedule:{t}": Case(
            lambda made, t=t: agrees_with(made, {"schedule": t}), {"schedule": t}, {"schedule": "cosine"}
        )
        for t in ("constant", "linear", "wsd")
    },
}


def resolved(section, text="unused"):
    settings = mapping(text)
    settings["model"]["num_layers"] = LAYERS
    settings["training"]["steps"] = TOTAL
    settings["optimizer"] = section
    return config_from_mapping(settings)


@functools.cache
def model_and_gradients():
    model = experiment.make_model(resolved({}), 259)
    rng = np.random.default_rng(0)
    start = {v.path: rng.normal(0.0, 0.3, v.shape).astype(np.float32) for v in model.variables}
    gradients = [
        {v.path: (rng.normal(size=v.shape) * rng.exponential()).astype(np.float32) for v in model.variables}
        for _ in range(STEPS)
    ]
    return model, start, gradients


def stepped(section):
    """What the optimizer of a config makes of the weights -> weights and averages by path."""
    model, start, gradients = model_and_gradients()
    for variable in model.variables:
        variable.assign(start[variable.path])
    optimizer = experiment.make_optimizer_of(resolved(section), model)
    for by_path in gradients:
        optimizer.apply([tf.constant(by_path[v.path]) for v in optimizer.trainable])
    weights = {v.path: v.numpy() for v in model.variables}
    with optimizer.averaged():
        return weights, {v.path: v.numpy() for v in model.variables}


def agrees_with(made, section):
    """The formulas' weights; and where an average is kept, it is what the model holds in evaluation."""
    _, start, gradients = model_and_gradients()
    weights, average = trained(to_mapping(resolved(section).optimizer), start, gradients, TOTAL, LAYERS)
    for ours, expected in zip(made, (weights, average or weights), strict=True):
        for path, value in expected.items():
            np.testing.assert_allclose(ours[path], value, atol=3e-5, rtol=3e-4, err_msg=path)


@pytest.mark.parametrize("key", FORMULAS)
def test_the_weights_are_those_of_the_formulas(key):
    hold(FORMULAS[key], stepped)


def applied(kind, **keys):
    return Case(SHOWS[next(iter(keys))], {"type": kind, **keys}, {"type": kind})


def clips(made):
    assert made["norms"] == pytest.approx([1e-3] * 2, rel=1e-4)
    assert min(made["metrics"]["grad_norm"]) > 1e-2


def skips(made):
    assert made["metrics"]["skipped"].tolist() == [1.0] * 2
    assert made["moved"] == 0.0


SHOWS = {"clip_norm": clips, "skip_above": skips}
STEPS_TAKEN = {
    **{f"optimizer:{kind}.clip_norm": applied(kind, clip_norm=1e-3) for kind in RULES},
    **{f"optimizer:{kind}.skip_above": applied(kind, skip_above=1e-3) for kind in RULES},
}


@pytest.fixture(scope="module")
def step_taken(runs):
    """Takes two steps as a training does -> metrics, the gradients' norms, how far weights moved."""
    from tfllm.training.train_step import metrics_by_name

    prepared = experiment.prepare(config_from_mapping(mapping(runs.text)))

    @functools.cache
    def take(items):
        config = resolved(dict(items), runs.text)
        setup = TrainingSetup(
            config,
            RunFolder(runs.folder / "none"),
            one_device(),
            prepared,
            Display(total_steps=1, silent=True),
        )
        norms, apply = [], setup.optimizer.apply

        def noting(gradients, **options):
            norms.append(float(tf.linalg.global_norm(gradients)))
            return apply(gradients, **options)

        setup.optimizer.apply = noting
        before = [v.numpy() for v in setup.model.variables]
        rows = [setup.step(features).numpy() for features in setup.plain_batches(0, 2)]
        moved = max(
            np.abs(v.numpy() - old).max() for v, old in zip(setup.model.variables, before, strict=True)
        )
        return {"metrics": metrics_by_name(np.stack(rows)), "norms": norms, "moved": moved}

    return lambda section: take(tuple(section.items()))


QUICK = [f"optimizer:{kind}.clip_norm" for kind in ("adamw", "muon")] + ["optimizer:adamw.skip_above"]


@pytest.mark.parametrize("key", mostly_slow(STEPS_TAKEN, QUICK))
def test_the_step_clips_and_skips(key, step_taken):
    hold(STEPS_TAKEN[key], step_taken)


def keeps_state_of(kind):
    def shows(run):
        assert run.statuses == [143, 0]
        assert any(name.startswith(f"optimizer/{kind}/") for name in run.weights)
        assert run.lines("validation")[-1]["loss"] < run.lines("validation")[0]["loss"]

    return shows


TYPES = {
    f"optimizer:{kind}": Case(
        keeps_state_of(kind),
        {"optimizer.type": kind, **({"optimizer.momentum": 0.5} if kind == "sgd" else {})},
        {"optimizer.type": "adamw"},
    )
    for kind in RULES
    if kind != "adamw"
}


@pytest.mark.slow
@pytest.mark.parametrize("key", TYPES)
def test_every_optimizer_trains_stops_and_goes_on(key, runs):
    hold(TYPES[key], functools.partial(runs, stop_at=3))


CASES = {**FORMULAS, **STEPS_TAKEN, **TYPES}
