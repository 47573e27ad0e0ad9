import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfllm.export import lint
from tfllm.export.errors import ExportError
from tfllm.export.lint import lint_saved_model

BATCH = tf.TensorSpec([None], tf.float32, name="x")


def save(folder, function, spec=BATCH, **attributes):
    module = tf.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    module.run = tf.function(function, input_signature=[spec], autograph=False)
    tf.saved_model.save(module, str(folder), signatures={"run": module.run})
    return folder


def in_loop(step):
    """Inside a while body, which the file's own list of operations leaves out."""
    return lambda x: {"y": tf.while_loop(lambda i, x: i < 2, lambda i, x: (i + 1, step(x)), [0, x])[1]}


def shaped(y):
    return tf.ensure_shape(y, [None])


def jitted(x):
    return tf.function(tf.square, jit_compile=True)(x)


def python(x):
    return shaped(tf.py_function(lambda x: x, [x], tf.float32))


def numpy(x):
    return shaped(tf.numpy_function(lambda x: x, [x], tf.float32))


def test_a_plain_function_has_no_problems(tmp_path):
    assert lint_saved_model(save(tmp_path, in_loop(tf.square))) == []


def test_the_export_has_no_problems(case):
    assert lint_saved_model(case.path) == []


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (python, "EagerPyFunc"),
        (numpy, "PyFunc"),
        (jitted, "jit_compile=True"),
        (lambda x: x + tf.random.uniform(tf.shape(x)), "RandomUniform"),
        (lambda x: x + tf.random.normal(tf.shape(x)), "RandomStandardNormal"),
        (lambda x: x + tf.random.truncated_normal(tf.shape(x)), "TruncatedNormal"),
        (tf.random.shuffle, "RandomShuffle"),
        (lambda x: x + tf.cast(tf.random.categorical(x[:, None], 1)[:, 0], tf.float32), "Multinomial"),
    ],
)
def test_operations_a_server_must_not_meet(tmp_path, step, words):
    problems = lint_saved_model(save(tmp_path, in_loop(step)))
    assert problems and any(words in problem and "function" in problem for problem in problems)


def test_a_generator_with_state(tmp_path):
    generator = tf.random.Generator.from_seed(1)
    folder = save(tmp_path, lambda x: {"y": x + generator.uniform(tf.shape(x))}, generator=generator)
    assert any("RngReadAndSkip" in problem for problem in lint_saved_model(folder))


@pytest.mark.parametrize(
    "kind", [tf.lookup.experimental.MutableHashTable, tf.lookup.experimental.DenseHashTable]
)
def test_a_table_that_changes(tmp_path, kind):
    extra = {} if kind is tf.lookup.experimental.MutableHashTable else {"empty_key": "e", "deleted_key": "d"}
    table = kind(tf.string, tf.int64, default_value=-1, **extra)

    def run(x):
        with tf.control_dependencies([table.insert(x, tf.zeros(tf.shape(x), tf.int64))]):
            return {"y": table.lookup(x)}

    folder = save(tmp_path, run, tf.TensorSpec([None], tf.string, name="x"), table=table)
    problems = lint_saved_model(folder)
    assert any("LookupTableInsertV2" in problem for problem in problems)
    assert any("Mutable" in problem for problem in problems)


def test_a_table_that_does_not_change_is_fine(tmp_path):
    initializer = tf.lookup.KeyValueTensorInitializer(["a"], tf.constant([1], tf.int64))
    table = tf.lookup.StaticHashTable(initializer, -1)
    spec = tf.TensorSpec([None], tf.string, name="x")
    assert lint_saved_model(save(tmp_path, lambda x: {"y": table.lookup(x)}, spec, table=table)) == []


@pytest.mark.parametrize("op", ["MyOwnOp", "XlaLaunch", "XlaDynamicUpdateSlice"])
def test_operations_a_server_lacks(tmp_path, op):
    file = save(tmp_path, lambda x: {"y": tf.square(x)}) / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    saved.meta_graphs[0].graph_def.library.function[0].node_def.add(name="odd", op=op)
    file.write_bytes(saved.SerializeToString())
    (problem,) = lint_saved_model(tmp_path)
    assert problem.startswith(f"{op} in function ")


@pytest.mark.parametrize(
    ("function", "spec", "words"),
    [
        (
            lambda x: {"y": tf.fill([tf.cast(x, tf.int32)], x)},
            tf.TensorSpec([], tf.float32, name="x"),
            "input x is a scalar",
        ),
        (lambda x: {"y": tf.reduce_sum(x)}, BATCH, "output y is a scalar"),
        (lambda x: {"y": tf.cast(x, tf.float16)}, BATCH, "output y is HALF"),
        (lambda x: {"y": tf.cast(x, tf.bfloat16)}, BATCH, "output y is BFLOAT16"),
        (lambda x: {"y": tf.zeros([3]) + tf.reduce_sum(x)}, BATCH, "output y has 3 as dimension 0"),
    ],
)
def test_signatures_that_cannot_be_batched_or_sent(tmp_path, function, spec, words):
    (problem,) = lint_saved_model(save(tmp_path, function, spec))
    assert words in problem


def test_inputs_that_differ_in_the_batch(tmp_path):
    module = tf.Module()
    specs = [BATCH, tf.TensorSpec([1], tf.float32, name="z")]
    module.run = tf.function(lambda x, z: {"y": x + z}, input_signature=specs, autograph=False)
    tf.saved_model.save(module, str(tmp_path), signatures={"run": module.run})
    (problem,) = lint_saved_model(tmp_path)
    assert "inputs differ in dimension 0" in problem


def test_a_file_that_is_missing_or_broken(tmp_path):
    with pytest.raises(ExportError, match="cannot read"):
        lint_saved_model(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff not a protocol buffer")
    with pytest.raises(ExportError, match="is not a SavedModel"):
        lint_saved_model(tmp_path)


def test_operations_of_tensorflow_text_are_known():
    """Those that importing tensorflow-text 2.21.1 adds."""
    ops = [
        "CaseFoldUTF8",
        "ConstrainedSequence",
        "FastBertNormalize",
        "FastWordpieceTokenizeWithOffsets",
        "FindSourceOffsets",
        "MaxSpanningTree",
        "NormalizeUTF8",
        "NormalizeUTF8WithOffsetsMap",
        "PhraseTokenize",
        "RegexSplitWithOffsets",
        "RougeL",
        "SentenceFragments",
        "SentenceFragmentsV2",
        "SentencepieceDetokenizeOp",
        "SentencepieceIdToStringOp",
        "SentencepieceOp",
        "SentencepieceStringToIdOp",
        "SentencepieceTokenizeOp",
        "SentencepieceTokenizeWithOffsetsOp",
        "SentencepieceVocabSizeOp",
        "SplitMergeTokenizeWithOffsets",
        "TFText>FastSentencepieceTokenize",
        "TFText>WhitespaceTokenizeWithOffsetsV2",
        "TokenizerFromLogits",
        "UnicodeScriptTokenizeWithOffsets",
        "WhitespaceTokenizeWithOffsets",
        "WordpieceTokenizeWithOffsets",
    ]
    assert [op for op in ops if lint._op_problem(op)] == []
