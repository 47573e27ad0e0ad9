import dataclasses
from pathlib import Path

import pytest

from tfllm.config import ConfigError, config_from_mapping
from tfllm.experiment.checks import best_metric, check_late, sample_ids
from tfllm.tasks.causal_lm import CausalLM
from tfllm.tokenizers import ByteTokenizer


def config(**sections):
    mapping = {
        "name": "small",
        "tokenizer": "byte",
        "model": {"num_layers": 1, "hidden_dim": 16, "num_heads": 2},
        "data": {"train": "python_docs", "seq_len": 32},
        "generation": {"max_new_tokens": 8, **sections.pop("generation", {})},
    }
    return config_from_mapping({**mapping, **sections})


def check(config, task=None, *, tokenizer=None, export=Path("nowhere")):
    tokenizer = tokenizer or ByteTokenizer()
    check_late(config, tokenizer, task or CausalLM(token_byte_lengths=tokenizer.token_byte_lengths()), export)


def problems(config, task=None):
    with pytest.raises(ConfigError) as caught:
        check(config, task)
    return [str(problem) for problem in caught.value.problems]


class Classifier:
    """A task whose metrics have both directions."""

    metric_modes = {"loss": "min", "accuracy": "max"}


def test_what_will_work_passes():
    longest = 32 - 8 - len(ByteTokenizer().prefix_ids)
    check(config(generation={"prompts": ["ban", "é", "a" * longest], "stop_tokens": ["<|eos|>"]}))
    check(config(training={"best_metric": "bits_per_byte"}, export={"at_end": True}))


def test_everything_is_said_at_once():
    found = problems(
        config(
            generation={"prompts": ["ban", "a" * 24, "a" * 99], "stop_tokens": ["<|im_end|>"]},
            training={"best_metric": "eval_loss"},
        )
    )
    assert len(found) == 4
    assert found[0].startswith("generation.prompts[1]=aaa")
    assert "has 25 tokens; with generation.max_new_tokens=8 it exceeds the context of 32" in found[0]
    assert "write generation.max_new_tokens=7 or less" in found[0]
    assert "shorten the prompt" in found[1]
    assert found[2].startswith("generation.stop_tokens[0]=<|im_end|> is not a special token")
    assert "there are for example" in found[2]
    assert found[3] == (
        "training.best_metric=eval_loss is not a metric of task.type=causal_lm; write one of loss, perplexity,"
        " bits_per_byte; perhaps loss"
    )


def test_a_prompt_must_have_tokens_that_the_model_has():
    small = config(generation={"prompts": ["ban"]})
    object.__setattr__(small, "model", dataclasses.replace(small.model, vocab_size=100))
    (found,) = problems(small)
    assert found.startswith("generation.prompts[0]=ban holds the token")
    assert "the model has rows for ids below 100" in found

    class Bare(ByteTokenizer):
        prefix_ids = ()

    assert sample_ids(config(), Bare(), None, "") == []
    with pytest.raises(ConfigError, match="has no tokens"):
        check(config(generation={"prompts": [""]}), tokenizer=Bare())


@pytest.mark.parametrize(
    ("metric", "mode", "best"),
    [("accuracy", None, "max"), ("accuracy", "max", "max"), ("loss", None, "min"), ("loss", "min", "min")],
)
def test_a_metric_knows_its_direction(metric, mode, best):
    asked = config(training={"best_metric": metric, "best_mode": mode})
    check(asked, Classifier())
    assert best_metric(asked, Classifier()) == (metric, best)
    assert best_metric(config(), Classifier()) is None


@pytest.mark.parametrize(("metric", "mode", "best"), [("accuracy", "min", "max"), ("loss", "max", "min")])
def test_a_contradiction_is_refused(metric, mode, best):
    (found,) = problems(config(training={"best_metric": metric, "best_mode": mode}), Classifier())
    assert found.startswith(f"training.best_mode={mode} contradicts training.best_metric={metric}")
    assert f"best at its {best}" in found


def test_a_tokenizer_without_a_graph_cannot_be_exported():
    from tfllm.tokenizers import TokenizerError

    class Offline(ByteTokenizer):
        def in_graph(self):
            raise TokenizerError("it has no graph")

    asked = config(export={"at_end": True})
    with pytest.raises(ConfigError, match=r"export\.at_end=true cannot be: it has no graph"):
        check(asked, tokenizer=Offline())


def test_an_export_needs_its_folder(tmp_path):
    (tmp_path / "export").write_text("in the way")
    with pytest.raises(ConfigError, match=r"export\.at_end=true goes to .* no folder that can be written"):
        check(config(export={"at_end": True}), export=tmp_path / "export")
    check(config(), export=tmp_path / "export")
    check(config(export={"at_end": True}), export=tmp_path)


def test_every_metric_of_the_task_but_the_count_has_a_direction():
    task = CausalLM(token_byte_lengths=ByteTokenizer().token_byte_lengths())
    metrics = task.evaluation_metrics({"loss": 1.0, "weight": 1.0, "bytes": 1.0})
    assert task.metric_modes.keys() == metrics.keys() - {"tokens"}
    assert CausalLM().metric_modes.keys() == {"loss", "perplexity"}
