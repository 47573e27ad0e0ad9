"""The small sections: tokenizer, training, distribution, generation, evaluation, export."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from tfllm.config.errors import Problem
from tfllm.config.registry import Registry
from tfllm.config.setting import setting

TOKENIZERS = Registry("tokenizer", default="byte_bpe")
DISTRIBUTIONS = Registry("distribution", default="one_device", needs=("replicas",))

FEWEST_SAMPLES = 40  # of which the least and the most are the ends of a 95% interval

_TRAIN_MEGABYTES = "text to learn tokens from; of a larger data.train, a sample of its documents"


@TOKENIZERS.register("byte", builds="tfllm.experiment.tokenizer:byte")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ByteTokenizerConfig:
    """One token a UTF-8 byte; needs no file."""

    type: str = "byte"


@TOKENIZERS.register("byte_bpe", builds="tfllm.experiment.tokenizer:byte_bpe")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ByteBPETokenizerConfig:
    """Byte-level byte-pair encoding, GPT-2 style."""

    type: str = "byte_bpe"
    vocab_size: int = setting(4096, "tokens to learn, special ones included; unused with a path", minimum=260)
    path: str | None = setting(None, "a tokenizer.json to use instead of training one on data.train")
    train_megabytes: int = setting(100, _TRAIN_MEGABYTES, minimum=1)


@TOKENIZERS.register("wordpiece", builds="tfllm.experiment.tokenizer:wordpiece")
@dataclasses.dataclass(frozen=True, kw_only=True)
class WordPieceTokenizerConfig:
    """Pieces of words, as BERT has them, learned from data.train; texts cannot be had back exactly."""

    type: str = "wordpiece"
    vocab_size: int = setting(8000, "tokens to learn, special ones included", minimum=260)
    lowercase: bool = setting(True, "letters become small and lose their accents")
    train_megabytes: int = setting(100, _TRAIN_MEGABYTES, minimum=1)


@TOKENIZERS.register("sentencepiece", builds="tfllm.experiment.tokenizer:sentencepiece")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePieceTokenizerConfig:
    """Pieces of SentencePiece, as T5 and Llama 2 have them, learned from data.train."""

    type: str = "sentencepiece"
    vocab_size: int = setting(8000, "tokens to learn, special ones and 256 bytes included", minimum=300)
    algorithm: str = setting("unigram", "how pieces are learned", choices=("unigram", "bpe"))
    train_megabytes: int = setting(100, _TRAIN_MEGABYTES, minimum=1)


@TOKENIZERS.register("pretrained", builds="tfllm.experiment.tokenizer:pretrained")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedTokenizerConfig:
    """The tokenizer of a checkpoint."""

    type: str = "pretrained"
    source: str | None = setting(
        None, "checkpoint, run folder, or folder of tokenizer files; null: model.source"
    )
    extra_special_tokens: tuple[str, ...] = setting(
        (), "names of special tokens to add behind the vocabulary"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long, how large, how exact, and what is written when."""

    steps: int = setting(1000, "optimizer updates in the whole run", minimum=1)
    epochs: float | None = setting(
        None, "passes over the rows to train on, in the place of steps; an evaluation follows each", above=0.0
    )
    global_batch_size: int = setting(16, "sequences an update, over all devices", minimum=1)
    microbatch_size: int | None = setting(
        None, "sequences a device computes at once; gradients add up over the rest", minimum=1
    )
    precision: str = setting(
        "float32", "compute type", choices=("float32", "mixed_bfloat16", "mixed_float16")
    )
    jit_compile: bool = setting(True, "compile the step with XLA")
    remat: str = setting(
        "none",
        "what the backward pass computes again instead of keeping it: nothing, attention, or whole blocks",
        choices=("none", "attention", "block"),
    )
    loss_chunk_tokens: int | None = setting(
        None, "tokens whose logits exist at once; null: as many as fit in 64 MB", minimum=1
    )
    attention_block_size: int | None = setting(
        None, "keys whose attention scores exist at once; null: whole rows", minimum=1
    )
    deterministic: bool = setting(False, "same digits on every run on the same machine")
    steps_per_call: int = setting(10, "steps inside one compiled loop, between looks at the clock", minimum=1)
    log_every: int = setting(10, "steps between lines of metrics.jsonl", minimum=1)
    evaluate_every: int | None = setting(None, "steps between evaluations; null: only at the end", minimum=1)
    sample_every: int | None = setting(None, "steps between samples; null: only at the end", minimum=1)
    checkpoint_every: int = setting(100, "steps between checkpoints", minimum=1)
    keep_checkpoints: int = setting(3, "newest checkpoints kept on disk", minimum=1)
    best_metric: str | None = setting(None, "keep the checkpoint whose validation metric, e.g. loss, is best")
    best_mode: str | None = setting(
        None, "which training.best_metric is best; null: as the metric itself has it", choices=("min", "max")
    )
    early_stopping: int | None = setting(
        None, "evaluations without a better best_metric after which the training has ended", minimum=1
    )
    on_save_error: str = setting(
        "stop", "when a checkpoint cannot be written: stop, or go on without it", choices=("stop", "continue")
    )
    preemption_notice: str = setting(
        "signals",
        "what announces the machine's end: signals (SIGTERM, SIGUSR1), or also Google Cloud's metadata server",
        choices=("signals", "gce"),
    )
    profile: tuple[int, ...] | None = setting(None, "[from, to]: steps whose TensorBoard profile is written")
    histogram_every: int | None = setting(None, "steps between weight histograms in TensorBoard", minimum=1)

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        if self.microbatch_size and self.global_batch_size % self.microbatch_size:
            rule = f"must divide {path}.global_batch_size={self.global_batch_size}"
            mend = f"try {_nearest_divisor(self.global_batch_size, self.microbatch_size)}"
            yield Problem(f"{path}.microbatch_size", self.microbatch_size, rule, mend)
        if self.early_stopping and self.best_metric is None:
            rule = f"needs {path}.best_metric, the metric that gets no better"
            yield Problem(f"{path}.early_stopping", self.early_stopping, rule, "write for example loss")
        if self.early_stopping and self.evaluate_every is None and self.epochs is None:
            rule = f"needs {path}.evaluate_every: the only evaluation is that of the end"
            yield Problem(f"{path}.early_stopping", self.early_stopping, rule, "write for example 100")
        steps = self.steps if self.epochs is None else 1 << 60  # which the rows will tell
        if self.profile is not None and not (
            len(self.profile) == 2 and 0 < self.profile[0] <= self.profile[1] <= steps
        ):
            rule = f"must be two steps, from and to, between 1 and {path}.steps={self.steps}"
            yield Problem(f"{path}.profile", list(self.profile), rule, "write for example [10, 15]")


@DISTRIBUTIONS.register("one_device", builds="tfllm.training.distribution:one_device")
@dataclasses.dataclass(frozen=True, kw_only=True)
class OneDeviceConfig:
    """The first GPU, or the CPU where there is none."""

    type: str = "one_device"

    @property
    def replicas(self) -> int:
        """Devices that share a batch, where the config says so."""
        return 1


@DISTRIBUTIONS.register("mirrored", builds="tfllm.training.distribution:mirrored")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MirroredConfig:
    """Copies of the model on several devices of one machine, each with a share of the batch."""

    type: str = "mirrored"
    num_devices: int | None = setting(
        None, "GPUs to use; on a machine without, logical CPU devices; null: every GPU", minimum=1
    )

    @property
    def replicas(self) -> int:
        """Devices that share a batch, where the config says so."""
        return self.num_devices or 1


@DISTRIBUTIONS.register("multi_worker", builds="tfllm.training.distribution:multi_worker")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiWorkerConfig:
    """Copies of the model on several machines, each with a share of the batch.

    Without `workers` the environment says who takes part: TF_CONFIG, SLURM's variables, or the
    variables of an indexed Kubernetes job.
    """

    type: str = "multi_worker"
    workers: tuple[str, ...] | None = setting(None, "host:port of every worker; null: from the environment")
    index: int | None = setting(None, "which of distribution.workers this process is", minimum=0)

    @property
    def replicas(self) -> int:
        """Devices that share a batch, where the config says so."""
        return len(self.workers or ()) or 1

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        for address in self.workers or ():
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit():
                rule = "is not an address"
                yield Problem(f"{path}.workers", address, rule, "write host:port, e.g. 10.0.0.1:12345")
        if self.workers is None and self.index is not None:
            rule, mend = f"means nothing without {path}.workers", f"list {path}.workers, or leave it out"
            yield Problem(f"{path}.index", self.index, rule, mend)
        if self.workers is not None and self.index is not None and self.index >= len(self.workers):
            rule, mend = (
                f"is not one of the {len(self.workers)} workers",
                f"write 0 to {len(self.workers) - 1}",
            )
            yield Problem(f"{path}.index", self.index, rule, mend)


@DISTRIBUTIONS.register("tpu", builds="tfllm.training.distribution:tpu")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TPUConfig:
    """Copies of the model on the cores of a TPU, each with a share of the batch."""

    type: str = "tpu"
    tpu: str = setting("local", "name or address of the TPU; local: the one of this machine")

    @property
    def replicas(self) -> int:
        """Devices that share a batch, where the config says so."""
        return 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Defaults of samples written in training, of `tfllm generate` and of the export."""

    prompts: tuple[str, ...] = setting((), "prompts continued in samples/")
    max_new_tokens: int = setting(64, "tokens to add at most", minimum=1)
    temperature: float = setting(0.8, "0 takes the likeliest token", minimum=0.0)
    top_k: int = setting(0, "keep the k likeliest tokens; 0 keeps all", minimum=0)
    top_p: float = setting(0.95, "keep the likeliest tokens up to this probability", above=0.0, maximum=1.0)
    repetition_penalty: float = setting(1.0, "divide the logits of tokens seen; 1 is off", above=0.0)
    seed: int = setting(0, "same seed, same text", minimum=0, maximum=2**31 - 1)
    stop_tokens: tuple[str, ...] = setting(
        (),
        "tokens that end a text, beside the tokenizer's own: by name, by a text that is one token, or id:N",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is computed of held-out text."""

    metrics: tuple[str, ...] = setting((), "the metrics to tell, beside loss; none named: all of the task's")
    max_examples: int | None = setting(
        None,
        "of tasks that write texts, the examples that are written at an evaluation; null: all",
        minimum=1,
    )
    bootstrap_samples: int = setting(
        0, "samples of the examples that 95% intervals are told from when testing; 0 tells none", minimum=0
    )

    def check(self, path: str) -> Iterator[Problem]:
        """Yields problems between keys."""
        if 0 < self.bootstrap_samples < FEWEST_SAMPLES:
            rule = f"is too few for a 95% interval, which needs {FEWEST_SAMPLES}"
            yield Problem(f"{path}.bootstrap_samples", self.bootstrap_samples, rule, "write 1000")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What the SavedModel accepts."""

    at_end: bool = setting(False, "export when training ends")
    max_new_tokens: int = setting(
        256, "largest max_new_tokens a request may ask for; at most the context less one", minimum=1
    )


def _nearest_divisor(number: int, wanted: int) -> int:
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return min(divisors, key=lambda d: abs(d - wanted))
