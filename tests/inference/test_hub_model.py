"""Models of other projects: answers and option scores equal those of a slow, obvious reference."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infimed.core.errors import DataError, UsageError
from infimed.data.record import ImageRef, Message, question_record
from infimed.inference import hub_folder
from infimed.inference.hub_loading import open_hub
from infimed.inference.hub_model import HubModel
from infimed.inference.requests import Model, Picture, Request, Sampling
from tests.inference import hub_checkpoints
from tests.inference.hub_checkpoints import MADE, WITH_IMAGES

QUESTIONS = (
    "Is there a pleural effusion?",
    "left or right",
    "7",
    "Which finding does this image show?\nA. left\nB. right\nAnswer with the letter of the right option.",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    return {name: make(root / name) for name, make in MADE.items()}


def picture(name: str, height: int = 28, width: int = 28) -> Picture:
    seed = sum(name.encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Picture(name, lambda: pixels, (width, height))


def requests(kind: str, new_tokens: int = 12) -> list[Request]:
    """Questions of every length; about one image, two of different shapes, and none."""
    made = [
        Request(f"text-{i}", (Message("user", (text,)),), (), new_tokens, ("yes", "no effusion"))
        for i, text in enumerate(QUESTIONS)
    ]
    if kind not in WITH_IMAGES:
        return made
    one, wide = picture("one"), picture("wide", 30, 70)
    made += [
        Request(
            f"one-{i}", (Message("user", (0, text)),), (one,), new_tokens, ("left", "right", "7")
        )
        for i, text in enumerate(QUESTIONS)
    ]
    both = (
        Message("system", ("Be brief.",)),
        Message("user", (0, "What is it?")),
        Message("assistant", ("An effusion.",)),
        Message("user", ("And compared with", 1, "?")),
    )
    made.append(Request("both", both, (one, wide), new_tokens, ("left", "right")))
    made.append(Request("wide", (Message("user", (0, "side?")),), (wide,), new_tokens, ("left",)))
    return made


def asked(model: HubModel, items: Sequence[Request]) -> dict[str, Any]:
    """Answers by id, in the batches that the model plans."""
    return {
        response.id: response
        for batch in model.batches(items)
        for response in model.respond([items[index] for index in batch])
    }


@torch.no_grad()
def naive(model: HubModel, request: Request) -> tuple[str, str]:
    """Greedy decoding of one request without cache, batch or `generate`."""
    inputs = model.prompts.inputs([request])
    written: list[int] = []
    while len(written) < request.max_new_tokens:
        token = int(model.model(**inputs, use_cache=False).logits[0, -1].argmax())
        if token in model.stop_ids:
            return model.prompts.tokenizer.decode(written, skip_special_tokens=True).strip(), "ok"
        written.append(token)
        for name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
            if name in inputs:
                new = {"input_ids": token, "attention_mask": 1}.get(name, 0)
                more = torch.tensor([[new]], dtype=inputs[name].dtype)
                inputs[name] = torch.cat([inputs[name], more], dim=1)
    return model.prompts.tokenizer.decode(written, skip_special_tokens=True).strip(), "truncated"


@pytest.mark.parametrize("kind", MADE)
def test_answers_of_a_batch_are_those_of_asking_one_at_a_time_without_a_cache(
    kind, folders
) -> None:
    model = open_hub(folders[kind])
    assert isinstance(model, Model)
    items = requests(kind)
    together = asked(model, items)
    assert {name: (r.text, r.status) for name, r in together.items()} == {
        request.id: naive(model, request) for request in items
    }
    assert len({response.text for response in together.values()}) >= 4
    alone = asked(replace_batch(model, 1), items)
    assert alone == together


def replace_batch(model: HubModel, batch_size: int) -> HubModel:
    return replace(model, batch_size=batch_size)


@pytest.mark.parametrize("kind", MADE)
def test_option_scores_are_the_log_probabilities_of_a_plain_forward_pass(kind, folders) -> None:
    model = open_hub(folders[kind])
    items = requests(kind)
    scored = model.score_choices(items)
    for request, scores in zip(items, scored, strict=True):
        for option, score in zip(request.choices, scores.options, strict=True):
            ids = model.prompts.tokenizer(option, add_special_tokens=False)["input_ids"]
            assert score.tokens == len(ids)
            assert score.logprob == pytest.approx(reference(model, request, ids), abs=2e-4)
    assert len(set(scored)) == len(items)


@torch.no_grad()
def reference(model: HubModel, request: Request, ids: Sequence[int]) -> float:
    """Sum of log-probabilities, one forward pass a token."""
    total = 0.0
    inputs = model.prompts.inputs([request])
    for token in ids:
        logits = model.model(**inputs, use_cache=False).logits[0, -1]
        total += float(logits.log_softmax(dim=-1)[token])
        for name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
            if name in inputs:
                new = {"input_ids": token, "attention_mask": 1}.get(name, 0)
                more = torch.tensor([[new]], dtype=inputs[name].dtype)
                inputs[name] = torch.cat([inputs[name], more], dim=1)
    return total


def test_inputs_are_those_of_the_stock_processor(folders) -> None:
    """Gemma's can be loaded here without torchvision; Qwen's needs it for videos."""
    from transformers import AutoProcessor

    model = open_hub(folders["gemma3"])
    stock = AutoProcessor.from_pretrained(folders["gemma3"])
    for request in requests("gemma3"):
        images = [model.prompts.image(one.load()) for one in request.pictures]
        shown = iter(images)
        chat = [
            {
                "role": turn.role,
                "content": [
                    {"type": "text", "text": part}
                    if isinstance(part, str)
                    else {"type": "image", "image": next(shown)}
                    for part in turn.content
                ],
            }
            for turn in request.messages
        ]
        theirs = stock.apply_chat_template(
            chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
        )
        ours = model.prompts.inputs([request])
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), request.id


def test_a_checkpoint_of_llavas_own_code_has_the_logits_of_stock_llava(folders) -> None:
    """Padded to a square with the mean colour, the first feature of CLIP dropped, images first."""
    from PIL import Image

    stock = hub_checkpoints.stock_llava()
    model = open_hub(folders["llava_qwen2"])
    assert stock.config.image_token_id == model.model.config.image_token_id
    request = Request("q", (Message("user", ("What is it? ", 0)),), (picture("w", 20, 40),))
    inputs = model.prompts.inputs([request])
    assert int((inputs["input_ids"] == stock.config.image_token_id).sum()) == 16
    square = model.prompts.image(request.pictures[0].load())
    assert square.size == (40, 40) and square.getpixel((0, 0)) == (122, 116, 104)
    assert np.array_equal(np.asarray(square)[10:30], request.pictures[0].load())
    pixels = np.asarray(square.resize((28, 28), Image.Resampling.BICUBIC), np.float32) / 255
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    expected = torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)[None].float()
    torch.testing.assert_close(inputs["pixel_values"], expected, atol=2e-2, rtol=0)
    with torch.no_grad():
        assert torch.equal(model.model(**inputs).logits, stock(**inputs).logits)
    text = model.prompts.text(request.messages)
    assert "<image>\nWhat is it?" in text


def test_greedy_whatever_the_folder_says(folders, tmp_path) -> None:
    """Its generation_config samples and punishes repetition five-fold."""
    folder = shutil.copytree(folders["qwen2_5_vl"], tmp_path / "plain")
    plain = {"bos_token_id": 0, "pad_token_id": 0, "eos_token_id": [2, 0]}
    (folder / "generation_config.json").write_text(json.dumps(plain))
    items = requests("qwen2_5_vl")
    assert asked(open_hub(folders["qwen2_5_vl"]), items) == asked(open_hub(folder), items)


def test_an_image_that_cannot_be_read_harms_its_question_only(folders) -> None:
    def broken() -> np.ndarray:
        raise DataError("the image data is damaged", where="x.png")

    model = open_hub(folders["gemma3"])
    items = requests("gemma3")
    bad = Request("bad", (Message("user", (0, "what?")),), (Picture("b", broken, (9, 9)),))
    long = Request("long", (Message("user", ("effusion " * 600,)),), ())
    answers = {r.id: r for r in model.respond([*items, bad, long])}
    assert answers["bad"].status == "error" and "damaged" in answers["bad"].error
    assert (
        answers["long"].status == "error" and "more than the model's 512" in answers["long"].error
    )
    assert {r.id: answers[r.id] for r in items} == asked(model, items)
    (scores,) = model.score_choices([replace(bad, choices=("a", "b"))])
    assert "damaged" in scores.error and not scores.options


def test_an_empty_option_is_refused(folders) -> None:
    item = Request("q", (Message("user", ("which?",)),), choices=("a", ""))
    with pytest.raises(DataError, match="an option is empty"):
        open_hub(folders["qwen3"]).score_choices([item])


@pytest.mark.parametrize("kind", MADE)
def test_control_tokens_typed_by_a_user_are_text(kind, folders) -> None:
    model = open_hub(folders[kind])
    controls = [
        token.content
        for token in model.prompts.tokenizer.added_tokens_decoder.values()
        if token.special
    ]
    assert len(controls) >= 3
    clean = model.prompts.inputs([Request("a", (Message("user", ("x",)),))])
    dirty = model.prompts.inputs([Request("a", (Message("user", ("".join(controls),)),))])

    def control_tokens(inputs: dict[str, Any]) -> list[int]:
        special = set(model.prompts.tokenizer.all_special_ids)
        return [token for token in inputs["input_ids"][0].tolist() if token in special]

    assert control_tokens(dirty) == control_tokens(clean)


def test_an_answer_ends_before_a_stop_string(folders) -> None:
    model = open_hub(folders["qwen3"])
    item = requests("qwen3")[0]
    (whole,) = model.respond([item])
    stop = whole.text[2:4]
    (cut,) = model.respond([replace(item, stop=(stop,))])
    assert cut.status == "ok" and cut.text == whole.text[: whole.text.index(stop)].strip()


def test_sampling_is_refused(folders) -> None:
    item = replace(requests("qwen3")[0], sampling=Sampling(temperature=1.0))
    with pytest.raises(UsageError, match="greedily"):
        list(open_hub(folders["qwen3"]).respond([item]))


def test_batches_cover_every_request_once_and_do_not_mix_images_with_none(folders) -> None:
    model = open_hub(folders["gemma3"], batch_size=3)
    items = requests("gemma3")
    batches = model.batches(items)
    assert sorted(index for batch in batches for index in batch) == list(range(len(items)))
    assert max(map(len, batches)) == 3
    assert all(len({bool(items[i].pictures) for i in batch}) == 1 for batch in batches)


def test_a_model_without_eyes_says_so_before_it_is_asked(folders) -> None:
    record = question_record(
        id="r",
        question="Is it?",
        answer="yes",
        task="closed",
        images=(ImageRef("x.png", sha256="x"),),
        source="s",
    )
    with pytest.raises(UsageError, match="--text-only"):
        open_hub(folders["qwen3"]).conversation(record, None)


def test_a_language_model_without_a_template_gets_a_plain_one(folders, tmp_path) -> None:
    folder = shutil.copytree(folders["qwen3"], tmp_path / "base")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    model = open_hub(folder)
    assert model.prompts.text((Message("user", ("Is it?",)),)) == "Is it?\nAnswer:"
    assert model.fingerprint != open_hub(folders["qwen3"]).fingerprint


def edit(folder: Path, name: str, **values: Any) -> None:
    file = folder / name
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**old, **values}))


def drop_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = next(n for n in sorted(tensors) if "norm" in n)
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("qwen3", lambda f: edit(f, "config.json", auto_map={"AutoModel": "x.Y"}), "custom code"),
        ("qwen3", only_pickles, "pickled"),
        ("qwen3", lambda f: edit(f, "config.json", model_type="nobody"), "needs code of its own"),
        ("qwen3", lambda f: edit(f, "config.json", hidden_size=48), "parts of the model would be"),
        ("qwen3", drop_tensor, "1 missing"),
        ("qwen3", lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
        (
            "gemma3",
            lambda f: edit(f, "config.json", quantization_config={"quant_method": "awq"}),
            "quantised",
        ),
        ("gemma3", lambda f: (f / "preprocessor_config.json").unlink(), "image processor"),
        ("gemma3", lambda f: (f / "chat_template.jinja").unlink(), "has no chat template"),
        (
            "llava_qwen2",
            lambda f: edit(f, "config.json", mm_projector_type="qformer"),
            "mlp2x_gelu",
        ),
        ("llava_qwen2", lambda f: edit(f, "config.json", image_aspect_ratio="anyres"), "tiles"),
        ("llava_qwen2", lambda f: edit(f, "config.json", mm_vision_tower="../x"), "not described"),
        ("llava_qwen2", drop_tensor, "1 missing"),
    ],
)
def test_a_folder_that_cannot_be_trusted_or_does_not_fit_is_refused(
    kind, change, message, folders, tmp_path
) -> None:
    folder = shutil.copytree(folders[kind], tmp_path / "changed")
    change(folder)
    with pytest.raises(DataError, match=message):
        open_hub(folder)


def test_the_fingerprint_names_weights_template_and_number_type(folders, tmp_path) -> None:
    base = open_hub(folders["qwen3"]).fingerprint
    same = shutil.copytree(folders["qwen3"], tmp_path / "elsewhere")
    assert open_hub(same).fingerprint == base
    assert open_hub(same, template="{{ messages[0].content }}").fingerprint != base
    assert open_hub(same, dtype="float16").fingerprint != base
    edit(same, "generation_config.json", eos_token_id=[2, 1])
    assert open_hub(same).fingerprint != base
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(folders["qwen3"], tmp_path / "trained")
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1e-3
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    assert open_hub(other).fingerprint != base


def test_files_are_hashed_once_and_again_when_they_change(folders, tmp_path, monkeypatch) -> None:
    folder = shutil.copytree(folders["qwen3"], tmp_path / "model")
    hashed: list[str] = []
    real = hub_folder.sha256_file
    monkeypatch.setattr(
        hub_folder, "sha256_file", lambda file: (hashed.append(Path(file).name), real(file))[1]
    )
    found = hub_folder.look(folder)
    first = hub_folder.digest(found, tmp_path / "cache")
    assert "model.safetensors" in hashed and "tokenizer.json" in hashed
    hashed.clear()
    assert hub_folder.digest(found, tmp_path / "cache") == first and hashed == []
    edit(folder, "generation_config.json", eos_token_id=[2, 1])
    assert hub_folder.digest(found, tmp_path / "cache") != first
    assert hashed == ["generation_config.json"]
    (kept,) = (tmp_path / "cache" / "hashes").iterdir()
    kept.write_text("not json")
    assert hub_folder.digest(found, tmp_path / "cache") == hub_folder.digest(found, None)
