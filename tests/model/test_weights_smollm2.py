"""A Llama-architecture language model and its tokenizer out of a GGUF file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from infimed.core.errors import DataError
from infimed.core.files import write_json
from infimed.model.smollm2_gguf import LanguageParts, read_smollm2, rotary_order

gguf = pytest.importorskip("gguf", reason="needs the extra mini")

HIDDEN, HEADS, KV_HEADS, MLP, LAYERS = 64, 4, 2, 96, 2
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *(f"<r{i}>" for i in range(13)),
    "<empty_output>",
]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}{% endfor %}"


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE, in byte order."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [symbol for _, symbol in sorted(bytes_to_unicode().items())]


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to query and key rows, row by row."""
    rows = weight.shape[0]
    dim = rows // heads
    order = [
        h * dim + half * dim // 2 + i
        for h in range(heads)
        for i in range(dim // 2)
        for half in (0, 1)
    ]
    return weight[order]


def write_gguf(
    path: Path, *, arch: str = "llama", pre: str = "smollm", lose: str = ""
) -> dict[str, np.ndarray]:
    """A tiny model in the layout of the real file; returns its tensors under the Hub's names."""
    rng = np.random.default_rng(0)
    merges = [("Ċ", "Ċ"), ("Ġ", "Ġ"), ("Ġ", "t"), ("Ġt", "h")]
    tokens = [*SPECIAL, *byte_symbols(), *(a + b for a, b in merges)]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges([" ".join(merge) for merge in merges])
    for key, index in (("bos", 1), ("eos", 2), ("unk", 0), ("pad", 2)):
        getattr(writer, f"add_{key}_token_id")(index)
    writer.add_chat_template(TEMPLATE)

    hub: dict[str, np.ndarray] = {}

    def put(name: str, hub_name: str, *shape: int, heads: int = 0) -> None:
        array = rng.standard_normal(shape).astype(np.float32) * 0.1
        hub[hub_name] = array
        if name != lose:
            writer.add_tensor(
                name, np.ascontiguousarray(interleave(array, heads) if heads else array)
            )

    kv = HIDDEN // HEADS * KV_HEADS
    put("token_embd.weight", "model.embed_tokens.weight", len(tokens), HIDDEN)
    put("output_norm.weight", "model.norm.weight", HIDDEN)
    for layer in range(LAYERS):
        short, long = f"blk.{layer}", f"model.layers.{layer}"
        put(f"{short}.attn_norm.weight", f"{long}.input_layernorm.weight", HIDDEN)
        put(f"{short}.ffn_norm.weight", f"{long}.post_attention_layernorm.weight", HIDDEN)
        put(
            f"{short}.attn_q.weight", f"{long}.self_attn.q_proj.weight", HIDDEN, HIDDEN, heads=HEADS
        )
        put(f"{short}.attn_k.weight", f"{long}.self_attn.k_proj.weight", kv, HIDDEN, heads=KV_HEADS)
        put(f"{short}.attn_v.weight", f"{long}.self_attn.v_proj.weight", kv, HIDDEN)
        put(f"{short}.attn_output.weight", f"{long}.self_attn.o_proj.weight", HIDDEN, HIDDEN)
        put(f"{short}.ffn_gate.weight", f"{long}.mlp.gate_proj.weight", MLP, HIDDEN)
        put(f"{short}.ffn_up.weight", f"{long}.mlp.up_proj.weight", MLP, HIDDEN)
        put(f"{short}.ffn_down.weight", f"{long}.mlp.down_proj.weight", HIDDEN, MLP)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return hub


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray], LanguageParts]:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    hub = write_gguf(path)
    return path, hub, read_smollm2(path)


def tokenizer(parts: LanguageParts) -> Tokenizer:
    return Tokenizer.from_str(parts.tokenizer_json)


def test_every_tensor_comes_back_exactly_under_its_hub_name(tiny):
    _, hub, parts = tiny
    assert parts.tensors.keys() == hub.keys()
    assert all(np.array_equal(parts.tensors[name], hub[name]) for name in hub)


def test_rotary_order_undoes_the_interleaving_of_llama_cpp():
    weight = np.arange(24 * 3, dtype=np.float32).reshape(24, 3)
    assert np.array_equal(rotary_order(interleave(weight, 3), 3), weight)


def test_logits_equal_those_of_the_gguf_loader_of_transformers(tiny, tmp_path: Path):
    pytest.importorskip(
        "accelerate", reason="transformers' GGUF loader needs accelerate (extra mini)"
    )
    from transformers import AutoModelForCausalLM

    path, _, parts = tiny
    save_file(parts.tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    write_json(tmp_path / "config.json", parts.config)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=True).eval()
    theirs = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        assert torch.allclose(ours(ids).logits, theirs(ids).logits, atol=1e-6)


def test_the_token_table_keeps_its_length_and_stays_tied(tiny):
    _, hub, parts = tiny
    assert parts.config["vocab_size"] == len(hub["model.embed_tokens.weight"])
    assert parts.config["tie_word_embeddings"] is True
    assert tokenizer(parts).get_vocab_size() == parts.config["vocab_size"]


def test_the_image_placeholder_takes_the_row_of_the_reserved_token(tiny):
    parts = tiny[2]
    assert parts.image_token_id == SPECIAL.index("<empty_output>")
    assert tokenizer(parts).encode("<image>").ids == [parts.image_token_id]


def test_the_old_name_of_the_reserved_token_is_plain_text(tiny):
    parts = tiny[2]
    ids = tokenizer(parts).encode("<empty_output>").ids
    assert len(ids) == len("<empty_output>")
    assert parts.image_token_id not in ids


def test_control_tokens_are_single_ids_unless_special_tokens_are_off(tiny):
    made = tokenizer(tiny[2])
    assert made.encode("<|im_start|>").ids == [1]
    assert made.encode("<|im_end|>").ids == [2]
    made.encode_special_tokens = True
    assert not {1, 2, tiny[2].image_token_id} & set(
        made.encode("<|im_start|><|im_end|><image>").ids
    )


@pytest.mark.parametrize(
    "text", ["Heart size: normal.", "12.5 mm\n\n7 cm  2", " é 漢字\t— 🫁", "", "\n"]
)
def test_text_round_trips(tiny, text):
    made = tokenizer(tiny[2])
    assert made.decode(made.encode(text).ids, skip_special_tokens=False) == text


def test_digits_are_split_before_the_byte_level_rule(tiny):
    made = tokenizer(tiny[2])
    assert made.encode("\n\n7").tokens == ["ĊĊ", "7"]
    assert made.encode("  12").tokens == ["ĠĠ", "1", "2"]


def test_the_saved_folder_opens_with_auto_tokenizer_unchanged(tiny, tmp_path: Path):
    from transformers import AutoTokenizer

    parts = tiny[2]
    (tmp_path / "tokenizer.json").write_text(parts.tokenizer_json, encoding="utf-8")
    (tmp_path / "chat_template.jinja").write_text(parts.chat_template, encoding="utf-8")
    write_json(tmp_path / "tokenizer_config.json", parts.tokenizer_config)
    write_json(tmp_path / "config.json", parts.config)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    text = "the\n\n7 <image> 12  3"
    assert stock(text)["input_ids"] == tokenizer(parts).encode(text).ids
    assert stock.image_token_id == parts.image_token_id
    assert (stock.bos_token_id, stock.eos_token_id, stock.pad_token_id) == (1, 2, 2)
    assert stock.chat_template == TEMPLATE


def test_rope_and_norm_constants_reach_the_configuration(tiny):
    from transformers import LlamaConfig

    config = LlamaConfig(**tiny[2].config)
    assert config.rope_parameters["rope_theta"] == 100000.0
    assert config.rms_norm_eps == 1e-5


@pytest.mark.parametrize(("field", "value"), [("arch", "qwen2"), ("pre", "llama-bpe")])
def test_another_architecture_or_tokenizer_is_refused(tmp_path: Path, field, value):
    write_gguf(tmp_path / "a.gguf", **{field: value})
    with pytest.raises(DataError, match=value):
        read_smollm2(tmp_path / "a.gguf")


def test_a_missing_tensor_is_refused_by_name(tmp_path: Path):
    write_gguf(tmp_path / "a.gguf", lose="blk.1.ffn_up.weight")
    with pytest.raises(DataError, match=r"layers\.1\.mlp\.up_proj"):
        read_smollm2(tmp_path / "a.gguf")


@pytest.mark.parametrize("keep", [0, 3, 40, 5000, -1000])
def test_a_cut_off_file_is_refused(tiny, tmp_path: Path, keep):
    (tmp_path / "cut.gguf").write_bytes(tiny[0].read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cut\.gguf"):
        read_smollm2(tmp_path / "cut.gguf")
