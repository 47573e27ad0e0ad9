"""Tiny models under the names that the documentation uses."""

import json
import shutil

import gguf
import numpy as np
from safetensors.numpy import load_file, save_file

from tests.convert.golden import config_of, write_checkpoint
from tests.convert.test_gguf import gguf_name, interleaved
from tests.tiny import tiny_lm


def write_all(folder):
    """Puts SmolLM2 as a GGUF file and in the hub's cache, and MiniLM as a folder and there, into an empty folder."""
    lm = tiny_lm(max_seq_len=256)
    lm.save(folder / "smollm2-folder", to="huggingface")
    write_gguf(folder / "SmolLM2-135M-Instruct.Q4_1.gguf", folder / "smollm2-folder", lm.tokenizer)
    shutil.copy(folder / "SmolLM2-135M-Instruct.Q4_1.gguf", folder / "model.gguf")
    into_hub_cache(folder / "hub", "HuggingFaceTB/SmolLM2-135M-Instruct", folder / "smollm2-folder")
    shutil.rmtree(folder / "smollm2-folder")
    write_sentence_encoder(folder / "all-MiniLM-L6-v2")
    into_hub_cache(folder / "hub", "sentence-transformers/all-MiniLM-L6-v2", folder / "all-MiniLM-L6-v2")


def write_gguf(path, folder, tokenizer):
    """Writes a Llama of transformers' as llama.cpp's converter does."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    tokens = sorted(tokenizer.vocab, key=lambda token: tokenizer.vocab[token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in tokenizer.special_tokens else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer.merges])
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_chat_template(tokenizer.chat_template)
    for name, array in load_file(folder / "model.safetensors").items():
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if part in name:
                array = interleaved(array, config[heads])
        writer.add_tensor(gguf_name(name, False), array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def into_hub_cache(cache, repository, folder):
    """Lays a folder where huggingface_hub finds it without a network."""
    model = cache / f"models--{repository.replace('/', '--')}"
    commit = "0" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    shutil.copytree(folder, model / "snapshots" / commit)


def write_sentence_encoder(folder):
    """A BERT with a WordPiece vocabulary."""
    write_checkpoint(folder, "bert")
    weights, config = (
        load_file(folder / "model.safetensors"),
        json.loads((folder / "config.json").read_text()),
    )
    [name] = (name for name in weights if name.endswith("position_embeddings.weight"))
    config["max_position_embeddings"] = 256  # for rows as configs have them
    weights[name] = np.resize(weights[name], [256, weights[name].shape[1]])
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    size = config_of("bert")["vocab_size"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "##s"]
    words += [f"[unused{i}]" for i in range(size - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words[:size]) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
