import itertools
import json
import re
import resource
import shutil
import sys
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.rules import RULES, optimizer_of
from tests.training.toy import batch, run_steps, toy_model, toy_step
from tfllm.training import tensor_bundle
from tfllm.training.checkpoint import Checkpointer
from tfllm.training.checkpoint_folder import checkpoint_paths, read_best
from tfllm.training.errors import CheckpointError
from tfllm.training.model_checkpoint import model_variables, restore_model


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


def save(checkpointer, variables, step, **arguments):
    variables["a/b"].assign([step, -step])
    variables["c"].assign(step)
    checkpointer.save(step, {"tokens": step * 10.5, "window": {"loss": 0.1}}, **arguments)
    checkpointer.wait()


def written(folder, variables, step=1, state=None):
    """A checkpointer that has written one checkpoint."""
    checkpointer = Checkpointer(folder, variables)
    checkpointer.save(step, state or {})
    checkpointer.wait()
    return checkpointer


def names(checkpointer):
    return sorted(path.name for path in checkpointer.folder.iterdir())


@pytest.mark.parametrize("kind", RULES)
def test_every_optimizer_comes_back_whole(kind, tmp_path):
    model = toy_model(tie_embeddings=False)
    variables = model.trainable_variables
    settings = {"ema_decay": 0.9, **({"momentum": 0.9} if kind == "sgd" else {})}
    optimizer = optimizer_of(kind, learning_rate=0.01, weight_decay=0.1, variables=variables, **settings)
    rng = np.random.default_rng(0)
    optimizer.apply([tf.constant(rng.normal(size=v.shape), tf.float32) for v in variables])
    everything = {**model_variables(model), **optimizer.named_variables}
    before = {name: v.numpy() for name, v in everything.items()}
    assert int(optimizer.iterations) == 1
    assert len(optimizer.variables) > len(variables)
    state = {"tokens": 0.1, "window": {"loss": 1 / 3}}
    written(tmp_path, everything, 1, state)
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
    written(tmp_path, named(step))
    expected = run_steps(step, 1, data[1])
    other = toy_step(toy_model(seed=5, dropout=0.25), **settings)
    Checkpointer(tmp_path, named(other)).restore()
    got = run_steps(other, 1, data[1])
    np.testing.assert_array_equal(got[0], expected[0])
    for ours, theirs in zip(got[1], expected[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_run_moves_from_one_device_to_two_and_back(tmp_path):
    steps = [toy_step(), toy_step(replicas=2), toy_step(toy_model(seed=5, dropout=0.25))]
    run_steps(steps[0], 1)
    before = {name: v.numpy() for name, v in named(steps[0]).items()}
    for number, (there, here) in enumerate(itertools.pairwise(steps)):
        written(tmp_path / str(number), named(there))
        Checkpointer(tmp_path / str(number), named(here)).restore()
        assert sorted(named(here)) == sorted(before)
        for name, variable in named(here).items():
            for replica in here.strategy.experimental_local_results(variable.value):
                np.testing.assert_array_equal(replica.numpy(), before[name], err_msg=name)
    metrics, _ = run_steps(steps[1], 1)
    same, _ = run_steps(steps[2], 1)
    np.testing.assert_allclose(metrics, same, rtol=1e-5)


def test_the_newest_are_kept(kept):
    checkpointer, variables, notices = kept
    save(checkpointer, variables, 4)
    assert names(checkpointer) == ["step_00000002", "step_00000003", "step_00000004"]
    assert checkpointer.restore().step == 4
    assert not notices


def test_a_step_may_be_written_again(kept):
    checkpointer, variables, _ = kept
    variables["c"].assign(77)
    checkpointer.save(3, {})
    checkpointer.wait()
    assert names(checkpointer) == ["step_00000001", "step_00000002", "step_00000003"]
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
    "one digit of the manifest": lambda path: (path / "manifest.json").write_text(
        (path / "manifest.json").read_text().replace("31.5", "31.4")
    ),
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
    save(checkpointer, variables, 3)
    assert names(checkpointer) == ["step_00000002", "step_00000003"][-keep:]
    assert checkpointer.restore().step == 3


def test_all_damaged_is_an_error(kept):
    checkpointer, _, notices = kept
    for path in checkpointer.paths():
        truncate(path)
    with pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged; put a whole one there"):
        checkpointer.restore()
    assert len(notices) == 3


def test_another_model_is_named_with_its_variable_and_shapes(kept):
    checkpointer, _, _ = kept
    other = Checkpointer(
        checkpointer.folder, {"a/b": keras.Variable([0.0] * 3), "c": keras.Variable(0, dtype="int32")}
    )
    with pytest.raises(
        CheckpointError, match=r"a/b is float32 \[2\] there and float32 \[3\] here \(1 such variables\)"
    ):
        other.restore()
    extra = Checkpointer(
        checkpointer.folder, {"a/b": keras.Variable([0.0] * 2), "d": keras.Variable(0, dtype="int32")}
    )
    with pytest.raises(CheckpointError, match=r"c is int32 \[\] there and none here \(2 such variables\)"):
        extra.restore()


@pytest.fixture
def full_disk():
    """No file of this process may grow beyond 20 kB, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_a_full_disk_leaves_the_older_ones_and_no_rubbish(tmp_path, on_error, request):
    variable, notices = tf.Variable(tf.zeros([3])), []
    large = tf.Variable(tf.zeros([10_000]))
    settings = {"on_error": on_error, "notify": notices.append}
    written(tmp_path, {"v": variable}, 3)
    checkpointer = Checkpointer(tmp_path, {"v": variable, "large": large}, **settings)
    make_room = request.getfixturevalue("full_disk")
    checkpointer.save(4, {})
    expected = (
        rf"checkpoint of step 4 could not be written to {tmp_path}: File too large; the last whole checkpoint"
        rf" is {tmp_path}/step_00000003\. "
    )
    if on_error == "stop":
        mend = "Free space or make the folder writable, then run the same command again"
        with pytest.raises(CheckpointError, match=expected + mend):
            checkpointer.save(5, {})
        checkpointer.wait()  # raised once
        assert not notices
    else:
        checkpointer.save(5, {})
        assert len(notices) == 1
        assert re.match(expected + "Training goes on without it", notices[0])
        checkpointer.wait()
        assert len(notices) == 2
    assert names(checkpointer) == ["step_00000003"]
    make_room()
    checkpointer.save(6, {})
    checkpointer.wait()
    assert names(checkpointer) == ["step_00000003", "step_00000006"]
    assert checkpointer.restore().step == 6


def test_a_state_that_is_no_json_is_refused_at_once(kept):
    checkpointer, _, _ = kept
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpointer.save(4, {"loss": tf.constant(1.0)})


def test_what_a_killed_save_left_is_not_a_checkpoint(kept):
    checkpointer, variables, notices = kept
    part = checkpointer.folder / ".part_step_00000004"
    shutil.copytree(checkpointer.paths()[-1], part)
    reader = Checkpointer(checkpointer.folder, variables, writes=False)
    assert reader.restore().step == 3
    assert part.exists()
    assert checkpointer.restore().step == 3
    assert not part.exists()
    shutil.copytree(checkpointer.paths()[-1], part)
    save(checkpointer, variables, 4)
    assert names(checkpointer) == ["step_00000002", "step_00000003", "step_00000004"]
    assert not notices


def test_the_manifest_says_what_is_inside(kept):
    checkpointer, _, _ = kept
    manifest = json.loads((checkpointer.paths()[-1] / "manifest.json").read_text())
    assert manifest["variables"] == {
        "a/b": {"shape": [2], "dtype": "float32"},
        "c": {"shape": [], "dtype": "int32"},
    }
    assert (manifest["step"], manifest["state"]["tokens"], manifest["about"]) == (3, 31.5, {})
    assert set(manifest["files"]) == {"variables.index", "variables.data-00000-of-00001"}


def test_a_model_is_restored_without_its_optimizer(tmp_path):
    step = toy_step(optimizer="adamw", learning_rate=0.01)
    run_steps(step, 1)
    checkpointer = written(tmp_path, named(step), 7, {"tokens": 3.0})
    model, notices = toy_model(seed=5), []
    restored = restore_model(tmp_path, model, notify=notices.append)
    assert (restored.step, restored.state, restored.averaged) == (7, {"tokens": 3.0}, False)
    for ours, theirs in zip(model.variables, step.model.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    checkpointer.save(8, {})
    checkpointer.wait()
    truncate(checkpointer.paths()[-1])
    assert restore_model(tmp_path, model, notify=notices.append).step == 7
    assert len(notices) == 1
    with pytest.raises(CheckpointError, match=r"decoder/.* is float32 \[.*\] there and float32 \[.*\] here"):
        restore_model(tmp_path, toy_model(hidden_dim=16), notify=notices.append)
    for path in checkpointer.paths():
        truncate(path)
    with pytest.raises(CheckpointError, match="no whole checkpoint in"):
        restore_model(tmp_path, model, notify=notices.append)


@pytest.fixture
def slow_writer(monkeypatch):
    """Holds back the writing thread until the event is set."""
    gate, write = threading.Event(), tensor_bundle.HostCopy.write

    def held_back(self, prefix):
        assert gate.wait(30)
        write(self, prefix)

    monkeypatch.setattr(tensor_bundle.HostCopy, "write", held_back)
    yield gate
    gate.set()


TYPES = ["float32", "float16", "bfloat16", "float8_e4m3fn", "int32", "int64", "uint32", "bool"]


@pytest.mark.parametrize("jit_compile", [False, True], ids=["plain", "XLA"])
def test_what_is_written_is_the_moment_of_the_save(tmp_path, slow_writer, jit_compile):
    values = np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    variables = {f"{name}/v": tf.Variable(tf.cast(values, name)) for name in TYPES}
    variables |= {"scalar": tf.Variable(3, dtype=tf.int64), "empty": tf.Variable(tf.zeros([0, 2]))}
    before = {name: v.numpy() for name, v in variables.items()}
    floats = [variables["float32/v"], variables["float16/v"]]

    @tf.function(jit_compile=jit_compile, autograph=False)
    def step():
        for variable in floats:
            variable.assign_add(tf.ones_like(variable))

    checkpointer = Checkpointer(tmp_path, variables)
    for number in (1, 2):  # the second goes into the buffers of the first
        for name, variable in variables.items():
            variable.assign(before[name])
        checkpointer.save(number, {})
        step()
        step()
        for variable in variables.values():
            variable.assign(tf.cast(tf.zeros(variable.shape), variable.dtype))
        assert not checkpointer.paths() or number == 2
        slow_writer.set()
        checkpointer.wait()
        slow_writer.clear()
        assert Checkpointer(tmp_path, variables).restore().step == number
        for name, variable in variables.items():
            assert variable.numpy().dtype == before[name].dtype
            np.testing.assert_array_equal(variable.numpy(), before[name], err_msg=name)


def test_a_save_returns_at_once_and_the_next_waits_for_it(tmp_path, slow_writer):
    checkpointer = Checkpointer(tmp_path, {"v": tf.Variable([1.0])})
    checkpointer.save(1, {})
    blocked = checkpointer.blocked_seconds
    assert 0.0 < blocked < 5.0
    assert not checkpointer.paths()
    threading.Timer(0.2, slow_writer.set).start()
    start = time.perf_counter()
    checkpointer.save(2, {})
    waited = time.perf_counter() - start
    assert checkpointer.paths()[0].name == "step_00000001"
    assert 0.1 < checkpointer.blocked_seconds - blocked <= waited
    checkpointer.wait()
    assert checkpointer.restore().step == 2


def test_large_models_are_written_in_groups_that_tensorflow_reads_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_bundle, "_GROUP_BYTES", 100)
    variables = {f"v/{i}.x": tf.Variable(tf.fill([10], float(i))) for i in range(7)}
    variables["v/large"] = tf.Variable(tf.ones([200]))
    checkpointer = written(tmp_path, variables)
    (path,) = checkpointer.paths()
    # Two of 40 bytes fit together: 2, 2, 2, 1, and the large one alone.
    assert len(list(path.glob("variables.data-*-of-00005"))) == 5
    reader = tf.train.load_checkpoint(str(path / "variables"))
    assert set(reader.get_variable_to_shape_map()) == set(variables)
    for name, variable in variables.items():
        np.testing.assert_array_equal(reader.get_tensor(name), variable.numpy())
        variable.assign(tf.zeros_like(variable))
    assert checkpointer.restore().step == 1
    assert [float(variables[f"v/{i}.x"].numpy()[3]) for i in range(7)] == list(range(7))


def test_a_worker_that_does_not_write_reads(kept):
    checkpointer, variables, _ = kept
    worker = Checkpointer(checkpointer.folder, variables, writes=False)
    worker.save(4, {})
    worker.wait()
    assert worker.blocked_seconds == 0.0
    assert names(checkpointer) == ["step_00000001", "step_00000002", "step_00000003"]
    assert worker.restore().step == 3


def test_a_given_checkpoint_is_restored_and_what_lies_after_it_given_up(kept):
    checkpointer, variables, notices = kept
    restored = checkpointer.restore(checkpointer.folder / "step_00000001")
    assert (restored.step, restored.path.name) == (1, "step_00000001")
    np.testing.assert_array_equal(variables["a/b"], [1, -1])
    save(checkpointer, variables, 2)
    assert names(checkpointer) == ["step_00000001", "step_00000002"]
    (notice,) = notices
    assert "step_00000003: this run went on from before it, to step 2" in notice
    flip(checkpointer.paths()[0])
    with pytest.raises(CheckpointError, match=r"step_00000001/variables.* is missing or damaged"):
        checkpointer.restore(checkpointer.folder / "step_00000001")


def test_what_was_handed_in_comes_back(tmp_path):
    variables, about = {"v": tf.Variable(1.0)}, {"config": {"seed": 3}, "versions": {"keras": "3"}}
    checkpointer = Checkpointer(tmp_path, variables, about=about)
    checkpointer.save(1, {})
    assert checkpointer.restore().about == about


def test_another_type_is_another_model_but_weights_are_cast(tmp_path):
    model = toy_model(seed=1)
    written(tmp_path, model_variables(model))
    half = toy_model(seed=2, dtype="bfloat16")
    with pytest.raises(CheckpointError, match=r"is float32 \[.*\] there and bfloat16 \[.*\] here"):
        Checkpointer(tmp_path, model_variables(half)).restore()
    restore_model(tmp_path, half)
    for ours, theirs in zip(half.variables, model.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), tf.cast(theirs.value, "bfloat16").numpy())


def test_a_model_gets_its_moving_average(tmp_path):
    model, other = toy_model(seed=1), toy_model(seed=2)
    averages = {f"optimizer/ema/{v.path}": tf.Variable(v.value * 0.5) for v in model.trainable_variables}
    written(tmp_path, {**model_variables(model), **averages})
    assert restore_model(tmp_path, other).averaged
    for ours, theirs in zip(other.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy() * 0.5)


LOSSES = {1: 3.0, 2: 1.0, 3: 2.0, 4: float("nan"), 5: 1.0, 6: 4.0}


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 6)])
def test_the_best_is_kept_and_known_after_a_restore(tmp_path, mode, best):
    model, notices = toy_model(seed=1), []
    variables = model_variables(model)
    for step, loss in LOSSES.items():
        model.variables[0].assign(tf.fill(model.variables[0].shape, float(step)))
        # Another process each time: nothing is remembered but what is on disk.
        checkpointer = Checkpointer(tmp_path, variables, keep=2, best=("loss", mode), notify=notices.append)
        checkpointer.restore() if step != 1 else None
        model.variables[0].assign(tf.fill(model.variables[0].shape, float(step)))
        checkpointer.save(step, {}, metrics={"loss": loss} if step != 3 else {})
        checkpointer.wait()
    assert [path.name[-1] for path in checkpointer.paths()] == sorted({"5", "6", str(best)})
    assert read_best(tmp_path) == {"step": best, "metric": "loss", "mode": mode, "value": LOSSES[best]}
    other = toy_model(seed=2)
    assert restore_model(tmp_path, other, best=True).step == best
    assert float(other.variables[0].numpy().ravel()[0]) == best
    assert restore_model(tmp_path, other).step == 6
    assert not notices
    flip(next(path for path in checkpointer.paths() if path.name.endswith(str(best))))
    assert restore_model(tmp_path, other, best=True, notify=notices.append).step == (6 if best == 2 else 5)
    assert "step_0000000" in notices[0]


@pytest.fixture(scope="module")
def disk_images():
    """Copies a folder before each file operation under it: what a kill at that instant would leave."""
    watched, written_to = {}, []

    def copy(event, arguments):
        if watched and event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"):
            folder, images = watched.popitem()  # our own copying is not watched
            target = images / f"{len(list(images.iterdir())):03d}"
            shutil.copytree(folder, target)
            watched[folder] = images
        if watched and event == "open" and set(str(arguments[1])) & set("wax+"):
            written_to.append(str(arguments[0]))

    sys.addaudithook(copy)

    def record(folder, images, action):
        images.mkdir()
        written_to.clear()
        watched[folder] = images
        action()
        watched.clear()
        assert written_to
        assert all("/.part_" in path for path in written_to), "nothing is written under its last name"
        shutil.copytree(folder, images / "last")
        return sorted(images.iterdir())

    return record


@pytest.mark.parametrize(
    "save_at", [4, 3, 1], ids=["and rotates", "replaces one of the same step", "gives up later ones"]
)
def test_a_kill_at_any_instant_of_a_save_costs_no_checkpoint(tmp_path, disk_images, save_at):
    variables = {"a/b": keras.Variable([0.0, 0.0]), "c": keras.Variable(0, dtype="int32")}
    best = ("loss", "min")
    checkpointer = Checkpointer(tmp_path / "checkpoints", variables, keep=2, best=best, notify=str)
    for step in (1, 2, 3):
        save(checkpointer, variables, step, metrics={"loss": LOSSES[step]})
    if save_at == 1:
        checkpointer.restore(checkpointer.folder / "step_00000002")
    images = disk_images(
        checkpointer.folder,
        tmp_path / "images",
        lambda: save(checkpointer, variables, save_at, metrics={"loss": 0.5}),
    )
    assert len(images) > 20
    reached = []
    for image in images:
        notices = []
        settings = {"keep": 2, "best": best, "notify": notices.append}
        reader = Checkpointer(image, variables, writes=False, notify=notices.append)
        step = reader.restore().step
        reached.append(step)
        assert step == int(variables["c"].numpy()) == -float(variables["a/b"].numpy()[1])
        continued = Checkpointer(image, variables, **settings)
        assert continued.restore().step == step
        best_step = read_best(image)["step"]
        assert best_step in {int(path.name[-8:]) for path in checkpoint_paths(image)}
        save(continued, variables, step + 1)
        assert continued.restore().step == step + 1
        assert read_best(image)["step"] == best_step
        expected = {"best.json", *(f"step_{s:08d}" for s in {best_step, step, step + 1})}
        assert set(names(continued)) == expected
        assert not notices, image
    assert reached == sorted(reached, reverse=save_at == 1)
    assert {*reached} == {3, save_at}
    assert reached[-1] == save_at


def test_a_damaged_checkpoint_costs_no_good_one(kept):
    checkpointer, variables, notices = kept
    checkpointer.keep = 2
    flip(checkpointer.paths()[-1])
    assert checkpointer.restore().step == 2
    save(checkpointer, variables, 4)
    assert names(checkpointer) == ["step_00000002", "step_00000004"]
    assert len(notices) == 1
