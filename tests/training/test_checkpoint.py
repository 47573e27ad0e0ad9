import errno
import json
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.toy import batch, run_steps, toy_model, toy_step
from tfllm.training.checkpoint import Checkpointer, model_variables, restore_model
from tfllm.training.errors import CheckpointError
from tfllm.training.optimizers import OPTIMIZERS, make_optimizer


def named(step):
    optimizer = {f"optimizer/{name}": v for name, v in step.optimizer.named_variables.items()}
    return {**model_variables(step.model), **optimizer}


@pytest.fixture
def kept(tmp_path):
    """Two variables, checkpoints of steps 1, 2 and 3 in which they have those values, and the notices."""
    variables = {"a/b": keras.Variable([0.0, 0.0]), "c": keras.Variable(0, dtype="int32")}
    notices = []
    checkpointer = Checkpointer(tmp_path / "checkpoints", variables, keep=3, notify=notices.append)
    for step in (1, 2, 3):
        save(checkpointer, variables, step)
    return checkpointer, variables, notices


def save(checkpointer, variables, step):
    variables["a/b"].assign([step, -step])
    variables["c"].assign(step)
    return checkpointer.save(step, {"tokens": step * 10.5, "window": {"loss": 0.1}})


def names(checkpointer):
    return sorted(path.name for path in checkpointer.folder.iterdir())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_comes_back_whole(kind, tmp_path):
    model = toy_model(tie_embeddings=False)
    variables = model.trainable_variables
    settings = {"ema_decay": 0.9, **({"momentum": 0.9} if kind == "sgd" else {})}
    optimizer = make_optimizer(kind, learning_rate=0.01, weight_decay=0.1, variables=variables, **settings)
    rng = np.random.default_rng(0)
    optimizer.apply([tf.constant(rng.normal(size=v.shape), tf.float32) for v in variables])
    everything = {**model_variables(model), **optimizer.named_variables}
    before = {name: v.numpy() for name, v in everything.items()}
    assert int(optimizer.iterations) == 1
    assert len(optimizer.variables) > len(variables)
    state = {"tokens": 0.1, "window": {"loss": 1 / 3}}
    Checkpointer(tmp_path, everything).save(1, state)
    for variable in everything.values():
        variable.assign(tf.zeros_like(variable.value))
    restored = Checkpointer(tmp_path, everything).restore()
    assert (restored.step, restored.state) == (1, state)
    for name, variable in everything.items():
        np.testing.assert_array_equal(variable.numpy(), before[name], err_msg=name)


def test_a_restored_step_goes_on_as_an_uninterrupted_one(tmp_path):
    data = [tf.data.Dataset.from_tensors(batch(step)) for step in (0, 1)]
    settings = {"optimizer": "adamw", "learning_rate": 0.01}
    step = toy_step(**settings)
    run_steps(step, 1, data[0])
    Checkpointer(tmp_path, named(step)).save(1, {})
    expected = run_steps(step, 1, data[1])
    other = toy_step(toy_model(seed=5, dropout=0.25), **settings)
    Checkpointer(tmp_path, named(other)).restore()
    got = run_steps(other, 1, data[1])
    np.testing.assert_array_equal(got[0], expected[0])
    for ours, theirs in zip(got[1], expected[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_checkpoint_of_replicas_is_one_of_a_single_device(tmp_path):
    replicated, single = toy_step(replicas=2), toy_step(toy_model(seed=5))
    assert sorted(named(replicated)) == sorted(named(single))
    Checkpointer(tmp_path, named(replicated)).save(1, {})
    Checkpointer(tmp_path, named(single)).restore()
    for ours, theirs in zip(single.model.variables, replicated.model.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_the_newest_are_kept(kept):
    checkpointer, variables, notices = kept
    path = save(checkpointer, variables, 4)
    assert path == checkpointer.paths()[-1]
    assert names(checkpointer) == ["step_00000002", "step_00000003", "step_00000004"]
    assert checkpointer.restore().step == 4
    assert not notices


def test_a_step_may_be_written_again(kept):
    checkpointer, variables, _ = kept
    variables["c"].assign(77)
    checkpointer.save(3, {})
    variables["c"].assign(0)
    assert checkpointer.restore().step == 3
    assert int(variables["c"].numpy()) == 77


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert Checkpointer(tmp_path / "none", {"c": keras.Variable(0, dtype="int32")}).restore() is None


def truncate(path):
    data = path / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-3])


def flip(path):
    data = path / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)


def half_manifest(path):
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text()[:40])


DAMAGES = {
    "truncated": truncate,
    "one bit": flip,
    "no index": lambda path: (path / "variables.index").unlink(),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "half a manifest": half_manifest,
    "an empty manifest": lambda path: (path / "manifest.json").write_text("{}"),
    "nothing but the folder": lambda path: [file.unlink() for file in path.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_with_a_notice(kept, damage):
    checkpointer, variables, notices = kept
    damage(checkpointer.paths()[-1])
    restored = checkpointer.restore()
    assert (restored.step, restored.state["tokens"]) == (2, 21.0)
    np.testing.assert_array_equal(variables["a/b"], [2, -2])
    (notice,) = notices
    assert "step_00000003" in notice
    assert "missing or damaged; falling back to the checkpoint before it" in notice


@pytest.mark.parametrize("keep", [1, 3])
def test_a_damaged_checkpoint_does_not_push_out_what_is_written_after_it(kept, keep):
    checkpointer, variables, _ = kept
    truncate(checkpointer.paths()[-1])
    shutil.rmtree(checkpointer.paths()[0])
    checkpointer.restore()
    checkpointer.keep = keep
    damaged = checkpointer.paths()[-1]
    damaged.rename(damaged.with_name("step_00000009"))
    path = save(checkpointer, variables, 3)
    assert path.exists()
    assert names(checkpointer) == ["step_00000002", "step_00000003"][-keep:]
    assert checkpointer.restore().step == 3


def test_all_damaged_is_an_error(kept):
    checkpointer, _, notices = kept
    for path in checkpointer.paths():
        truncate(path)
    with pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged; remove the folder"):
        checkpointer.restore()
    assert len(notices) == 3


def test_another_model_is_named_with_its_variable_and_shapes(kept):
    checkpointer, _, _ = kept
    other = Checkpointer(
        checkpointer.folder, {"a/b": keras.Variable([0.0] * 3), "c": keras.Variable(0, dtype="int32")}
    )
    with pytest.raises(
        CheckpointError, match=r"a/b has shape \[2\] there and \[3\] here \(1 such variables\)"
    ):
        other.restore()
    extra = Checkpointer(
        checkpointer.folder, {"a/b": keras.Variable([0.0] * 2), "d": keras.Variable(0, dtype="int32")}
    )
    with pytest.raises(CheckpointError, match=r"c has shape \[\] there and none here \(2 such variables\)"):
        extra.restore()


@pytest.mark.parametrize("where", ["manifest", "rename", "variables"])
def test_a_full_disk_leaves_the_older_ones_and_no_rubbish(kept, where, monkeypatch):
    checkpointer, variables, _ = kept

    def full(*arguments, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_in_tensorflow(*arguments, **settings):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    if where == "manifest":
        monkeypatch.setattr(os, "fsync", full)
    elif where == "rename":
        monkeypatch.setattr(os, "replace", full)
    else:
        monkeypatch.setattr(checkpointer._checkpoint, "write", full_in_tensorflow)
    with pytest.raises(CheckpointError) as caught:
        save(checkpointer, variables, 4)
    message = str(caught.value)
    for words in (
        "checkpoint of step 4",
        "No space left on device",
        "step_00000003",
        "run the same command again",
    ):
        assert words in message
    assert names(checkpointer) == ["step_00000001", "step_00000002", "step_00000003"]
    monkeypatch.undo()
    assert checkpointer.restore().step == 3
    save(checkpointer, variables, 4)
    assert checkpointer.restore().step == 4


def test_what_a_killed_save_left_is_not_a_checkpoint(kept):
    checkpointer, variables, notices = kept
    part = checkpointer.folder / ".part_00000004"
    shutil.copytree(checkpointer.paths()[-1], part)
    assert checkpointer.restore().step == 3
    save(checkpointer, variables, 4)
    assert not part.exists()
    assert not notices


def test_the_manifest_says_what_is_inside(kept):
    checkpointer, _, _ = kept
    manifest = json.loads((checkpointer.paths()[-1] / "manifest.json").read_text())
    assert manifest["variables"] == {"a/b": [2], "c": []}
    assert set(manifest["files"]) == {"variables.index", "variables.data-00000-of-00001"}


def test_a_model_is_restored_without_its_optimizer(tmp_path):
    step = toy_step(optimizer="adamw", learning_rate=0.01)
    run_steps(step, 1)
    checkpointer = Checkpointer(tmp_path, named(step))
    checkpointer.save(7, {"tokens": 3.0})
    model, notices = toy_model(seed=5), []
    restored = restore_model(tmp_path, model, notify=notices.append)
    assert (restored.step, restored.state) == (7, {"tokens": 3.0})
    for ours, theirs in zip(model.variables, step.model.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    checkpointer.save(8, {})
    truncate(checkpointer.paths()[-1])
    assert restore_model(tmp_path, model, notify=notices.append).step == 7
    assert len(notices) == 1
    with pytest.raises(CheckpointError, match=r"decoder/.* has shape \[.*\] there and \[.*\] here"):
        restore_model(tmp_path, toy_model(hidden_dim=16), notify=notices.append)
    for path in checkpointer.paths():
        truncate(path)
    with pytest.raises(CheckpointError, match="no whole checkpoint in"):
        restore_model(tmp_path, model, notify=notices.append)
