"""A Llama-architecture language model (SmolLM2) out of a GGUF file, in the Hub's layout.

Weights are dequantised to float32 by the `gguf` package and renamed; the query and key rows, which
llama.cpp interleaves for its rotary layout, are put back in order. The tokenizer is rebuilt from
the file's vocabulary and merges. transformers' own GGUF loader gives the same weights (a test holds
them equal) but its tokenizer lacks the digit split of SmolLM2's pre-tokenizer, so "\\n\\n7" would
become three tokens where the model was trained on two.

Invariant: the token table keeps its length (49,152), so no embedding row is added: the image
placeholder `<image>` takes the row of a reserved code token that the language model never learned.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infimed.core.errors import DataError, missing_extra

Tensors = dict[str, NDArray[np.float32]]

IMAGE_TOKEN = "<image>"
REPLACED_TOKEN = "<empty_output>"
"""Reserved in SmolLM2 for notebook cells; its embedding equals that of ten other unused tokens."""

CONTROL = 3
"""`tokenizer.ggml.token_type` of a special token (llama.cpp, LLAMA_TOKEN_TYPE_CONTROL)."""

BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


@dataclass(frozen=True)
class LanguageParts:
    """What a language folder is written from.

    Attributes:
        config: `LlamaConfig` values. tensors: Hub names to float32 arrays; a tied output layer is
            absent. tokenizer_json: the fast tokenizer, serialised. tokenizer_config: its roles.
        chat_template: the file's own Jinja template. image_token_id: row of `<image>`.
    """

    config: dict[str, Any]
    tensors: Tensors
    tokenizer_json: str
    tokenizer_config: dict[str, Any]
    chat_template: str
    image_token_id: int


def read_smollm2(path: Path) -> LanguageParts:
    """Read a GGUF file of the Llama architecture with SmolLM2's tokenizer.

    Raises:
        DataError: not a GGUF file, another architecture or tokenizer, or tensors missing.
        UsageError: the package gguf is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise missing_extra("mini", "gguf") from error
    try:
        reader = gguf.GGUFReader(str(path))
        facts = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"is not a readable GGUF file ({error})", where=str(path)) from error
    for key, wanted in (
        ("general.architecture", "llama"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "smollm"),
    ):
        if facts.get(key) != wanted:
            raise DataError(
                f"unsupported {key}", where=str(path), seen=str(facts.get(key)), accepted=wanted
            )
    try:
        stored = {
            t.name: np.asarray(gguf.dequantize(t.data, t.tensor_type), np.float32)
            for t in reader.tensors
        }
        tensors = _hub_tensors(stored, facts, str(path))
        config = _config(facts, tied="lm_head.weight" not in tensors)
        tokenizer_json, image_token_id = build_tokenizer(facts)
        return LanguageParts(
            config=config,
            tensors=tensors,
            tokenizer_json=tokenizer_json,
            tokenizer_config=_tokenizer_config(facts),
            chat_template=str(facts["tokenizer.chat_template"]),
            image_token_id=image_token_id,
        )
    except KeyError as error:
        raise DataError(f"has no {error.args[0]}", where=str(path)) from error


def rotary_order(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows [heads * dim, in] from llama.cpp's interleaved order to the half-split order of the Hub.

    Inverse of `LlamaModel.permute` in llama.cpp's convert_hf_to_gguf.py.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


def _hub_tensors(stored: Tensors, facts: dict[str, Any], where: str) -> Tensors:
    heads = {
        "attn_q": facts["llama.attention.head_count"],
        "attn_k": facts["llama.attention.head_count_kv"],
    }
    tensors: Tensors = {}
    for name, array in stored.items():
        if name in OUTSIDE:
            tensors[OUTSIDE[name]] = array
        elif (match := BLOCK.fullmatch(name)) and match[2] in IN_BLOCK:
            array = rotary_order(array, heads[match[2]]) if match[2] in heads else array
            tensors[f"model.layers.{match[1]}.{IN_BLOCK[match[2]]}.weight"] = array
        elif name != "rope_freqs.weight":
            raise DataError("unknown tensor", where=where, seen=name)
    wanted = {"model.embed_tokens.weight", "model.norm.weight"} | {
        f"model.layers.{layer}.{name}.weight"
        for layer in range(facts["llama.block_count"])
        for name in IN_BLOCK.values()
    }
    if missing := sorted(wanted - tensors.keys()):
        raise DataError(f"{len(missing)} tensors missing", where=where, seen=", ".join(missing[:4]))
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise DataError("holds NaN or infinity", where=f"{where}:{name}")
    return tensors


def _config(facts: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    heads = facts["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(facts["tokenizer.ggml.tokens"]),
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": facts["llama.embedding_length"] // heads,
        "hidden_act": "silu",
        "max_position_embeddings": facts["llama.context_length"],
        # stored as float32 in the file, where 1e-05 reads 9.9999997e-06
        "rms_norm_eps": float(f"{facts['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": float(facts["llama.rope.freq_base"]),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "dtype": "float32",
    }


def build_tokenizer(facts: dict[str, Any]) -> tuple[str, int]:
    """The fast tokenizer as JSON, and the id of `<image>` in it.

    Byte-level BPE after a split into single digits, as in SmolLM2's published tokenizer
    (llama.cpp's pre-tokenizer "smollm"). The reserved token's name is replaced in the vocabulary
    itself, so its old name is plain text afterwards.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = list(facts["tokenizer.ggml.tokens"])
    kinds = facts["tokenizer.ggml.token_type"]
    if IMAGE_TOKEN in tokens or REPLACED_TOKEN not in tokens:
        raise DataError(
            "vocabulary has no reserved token to give to images",
            accepted=f"{REPLACED_TOKEN}, and no {IMAGE_TOKEN}",
        )
    image_token_id = tokens.index(REPLACED_TOKEN)
    tokens[image_token_id] = IMAGE_TOKEN
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == CONTROL
        ]
    )
    return tokenizer.to_str(), image_token_id


def _tokenizer_config(facts: dict[str, Any]) -> dict[str, Any]:
    tokens = facts["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[facts["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[facts["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[facts["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[facts["tokenizer.ggml.unknown_token_id"]],
        "image_token": IMAGE_TOKEN,
        "extra_special_tokens": {"image_token": IMAGE_TOKEN},
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": facts["llama.context_length"],
    }
