"""What keeps a SavedModel from being served by a stock TensorFlow Serving, read from its file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tfllm.export.errors import ExportError

# The operations that importing tensorflow-text 2.21.1 adds to TensorFlow's.
_TEXT_OPS = re.compile(
    r"TFText>\w+|Sentencepiece\w*Op|SentenceFragments(V2)?|((Fast)?Wordpiece|Whitespace|UnicodeScript|SplitMerge)"
    r"TokenizeWithOffsets|TokenizerFromLogits|RegexSplitWithOffsets|NormalizeUTF8(WithOffsetsMap)?|CaseFoldUTF8"
    r"|FindSourceOffsets|FastBertNormalize|PhraseTokenize|ConstrainedSequence|MaxSpanningTree|RougeL"
)
# The first that matches a whole name says what is wrong with the operation.
_BAD_OPS = (
    (r"(Eager)?PyFunc(Stateless)?", "runs Python, which a server does not have; write it in TensorFlow"),
    (r"_?Xla.*", "needs XLA, which stock servers disable; use an operation of core TensorFlow"),
    # LookupTableImport, not listed, also fills tables that never change.
    (
        r"(Anonymous)?Mutable(Dense)?HashTable(OfTensors)?(V2)?|LookupTable(Insert|Remove)(V2)?",
        "changes a table while it serves, so answers depend on requests before; use constants",
    ),
    (
        r"Random(Uniform|UniformInt|StandardNormal|Shuffle|Gamma|Poisson|PoissonV2)|(Parameterized)?TruncatedNormal"
        r"|Multinomial|Rng(ReadAnd)?Skip|NonDeterministicInts|.*CandidateSampler"
        r"|Stateful(Uniform.*|StandardNormal.*|TruncatedNormal|RandomBinomial)",
        "draws random numbers from a state, the same in each new server; use stateless ones with a seed",
    ),
)
# What JSON and the tensors of a request can carry.
_SERVABLE = ("STRING", "BOOL", "FLOAT", "DOUBLE", *(f"{u}INT{n}" for u in ("", "U") for n in (8, 16, 32, 64)))
# Bookkeeping of the loader, not signatures that a request can name.
_INTERNAL_SIGNATURES = ("__saved_model_init_op", "__saved_model_train_op")


def lint_saved_model(path: str | Path) -> list[str]:
    """Finds what a stock server lacks or must not meet: Python functions, XLA, tables that change, random
    numbers with a state, unknown operations, and signatures that cannot be batched or sent as JSON.

    Args:
        path: A version folder, with `saved_model.pb`. Nothing is loaded or run.

    Returns:
        The problems, one line each; none for a model that serves.

    Raises:
        ExportError: when the file is missing or is not a SavedModel.
    """
    found: dict[str, None] = {}  # a set that keeps the order
    for graph in _read(Path(path) / "saved_model.pb").meta_graphs:
        found.update(dict.fromkeys(_graph_problems(graph)))
        for name, signature in graph.signature_def.items():
            if name not in _INTERNAL_SIGNATURES:
                found.update(dict.fromkeys(_signature_problems(name, signature)))
    return list(found)


def _read(file: Path) -> saved_model_pb2.SavedModel:
    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString(file.read_bytes())
    except OSError as error:
        raise ExportError(f"cannot read {file}: {error.strerror}; give the folder of one version") from error
    except DecodeError as error:
        raise ExportError(f"{file} is not a SavedModel; export again") from error
    return saved


def _graph_problems(graph: meta_graph_pb2.MetaGraphDef) -> Iterator[str]:
    # The op list of a meta graph leaves out what stands inside loops: every function is walked instead.
    for function in graph.graph_def.library.function:
        name = function.signature.name
        if function.attr["_XlaMustCompile"].b:
            yield f"function {name} is traced with jit_compile=True; stock servers disable XLA"
        yield from _node_problems(function.node_def, f" in function {name}")
    yield from _node_problems(graph.graph_def.node, "")


def _node_problems(nodes, where: str) -> Iterator[str]:
    for node in nodes:
        if node.attr["_XlaMustCompile"].b:
            yield f"{node.op}{where} is called with jit_compile=True; stock servers disable XLA"
        reason = _op_problem(node.op)
        if reason is not None:
            yield f"{node.op}{where} {reason}"


def _op_problem(op: str) -> str | None:
    for pattern, reason in _BAD_OPS:
        if re.fullmatch(pattern, op):
            return reason
    # raw_ops lists what TensorFlow was built with, and not what a library registered since.
    if hasattr(tf.raw_ops, op) or _TEXT_OPS.fullmatch(op):
        return None
    return "is in neither TensorFlow nor TensorFlow Text, and servers load no other operations"


def _signature_problems(name: str, signature: meta_graph_pb2.SignatureDef) -> Iterator[str]:
    inputs = _described(signature.inputs)
    outputs = _described(signature.outputs)
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for key, (dtype, dims) in tensors.items():
            if dtype not in _SERVABLE:
                yield f"signature {name}: {kind} {key} is {dtype}, which requests cannot carry; cast it"
            if dims == []:
                yield f"signature {name}: {kind} {key} is a scalar; give it the batch as dimension 0"
    sizes = {dims[0] for _, dims in inputs.values() if dims}
    if len(sizes) > 1:
        yield f"signature {name}: inputs differ in dimension 0, {sorted(sizes)}; make it the batch in each"
    for key, (_, dims) in outputs.items():
        if dims and dims[0] != -1 and dims[0] not in sizes:
            yield f"signature {name}: output {key} has {dims[0]} as dimension 0, not the batch"


def _described(tensors) -> dict[str, tuple[str, list[int] | None]]:
    """Key to the name of the type, and to the dimensions, -1 for an open one, None where the rank is open."""
    described = {}
    for key in sorted(tensors):
        shape = tensors[key].tensor_shape
        dims = None if shape.unknown_rank else [dim.size for dim in shape.dim]
        described[key] = (types_pb2.DataType.Name(tensors[key].dtype).removeprefix("DT_"), dims)
    return described
