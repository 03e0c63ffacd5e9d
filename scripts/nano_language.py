"""The small pretrained language model: a byte-level BPE and a Qwen3-shaped network on medical text.

It learns the clinic's language and the chat format from phantom texts without images, and some
general medical English. In most phantom chats a written description stands where the image will
be, so that the model learns to answer from what it is shown; in the others nothing does, and the
answers are even, so that it learns no prior to guess by.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from infimed.core.seeds import derive_seed, stream
from infimed.data.phantom.catalogue import MODALITIES
from infimed.data.phantom.drawing_lots import draw_patient
from infimed.data.phantom.narratives import caption_text, report_text
from infimed.data.phantom.patient import patient_records
from infimed.data.phantom.truth import ImageTruth
from infimed.data.phantom.wording import length, picture, several, spot
from infimed.data.record import Message, Record
from infimed.model.processing import IGNORE, Processor

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")
VOCABULARY = 2048
MAX_TOKENS = 320
MEDICAL_DOCUMENTS, MEDICAL_TOKENS = 3500, 200
"""How much general medical text is read, and how much of each."""
CONTEXT_SHARE = 0.85
SHORT_TASKS = ("closed", "open", "choice")
PROMPT_WEIGHT, SHORT_WEIGHT = 0.08, 5.0
"""Loss weight of tokens that are not an answer, and of those of short answers; 1 for long answers.
A yes must not drown among the hundred tokens of a report."""
LONG_SHARE = 0.4
"""Share of captions, reports and consultations that is kept."""


@dataclass(frozen=True)
class Document:
    """A tokenised document: ids and the loss weight of predicting each id (the first is 0)."""

    ids: list[int]
    weights: list[float]


# --- texts -----------------------------------------------------------------------------------


def medical_texts(root: Path) -> dict[str, list[tuple[str, str]]]:
    """(question, text) pairs per source under `root`; the question is empty for plain text.

    Only training parts are read: SLAKE's train.json (English, open questions), PubMedQA without its
    500 test questions, MTS-Dialog's training set. A source that is absent is left out.
    """
    out: dict[str, list[tuple[str, str]]] = {}
    if (file := root / "medquad" / "medquad.jsonl.gz").exists():
        with gzip.open(file, "rt", encoding="utf-8") as handle:
            rows = [json.loads(line) for line in handle]
        out["medquad"] = [
            (row["question"], row["answer"][:900]) for row in rows if row.get("answer")
        ]
    if (file := root / "mts_dialog" / "MTS-Dialog-TrainingSet.csv").exists():
        with file.open(encoding="utf-8", newline="") as handle:
            out["mts_dialog"] = [
                (row["dialogue"][:900] + "\nSummarise this.", row["section_text"][:600])
                for row in csv.DictReader(handle)
            ]
    if (file := root / "slake_text" / "train.json").exists():
        rows = json.loads(file.read_text(encoding="utf-8"))
        out["slake"] = [
            (row["question"], str(row["answer"]))
            for row in rows
            if row["q_lang"] == "en" and row["answer_type"] == "OPEN"
        ]
    if (file := root / "rocov2_ccby" / "captions.jsonl").exists():
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        out["rocov2"] = [("", row["caption"]) for row in rows]
    if (file := root / "pubmedqa" / "ori_pqal.json").exists():
        held = root / "pubmedqa" / "test_ground_truth.json"
        test = set(json.loads(held.read_text(encoding="utf-8"))) if held.exists() else set()
        rows = json.loads(file.read_text(encoding="utf-8"))
        out["pubmedqa"] = [
            (row["QUESTION"], row["LONG_ANSWER"]) for key, row in rows.items() if key not in test
        ]
    return out


def describe(truth: ImageTruth, rng: np.random.Generator) -> str:
    """A written stand-in for an image, in one of several forms."""
    form = int(rng.integers(8))
    if form == 0:
        return caption_text(truth)
    if form == 1:
        return report_text(truth).split("\nImpression")[0]
    modality = truth.kind
    items = []
    for kind in modality.findings:
        finding = truth.finding(kind.key)
        if finding is not None:
            items.append(
                f"{several(kind, finding.count)}, {spot(modality, finding)}, {length(modality, finding.size_fraction)}"
            )
        elif form < 5 or rng.random() < 0.3:
            items.append(f"no {kind.name}")
    order = rng.permutation(len(items))
    return f"{picture(truth)}: " + "; ".join(items[int(i)] for i in order) + "."


def _without_images(turns: tuple[Message, ...], shown: str) -> list[Message]:
    """The turns with `shown` in place of the images of the first user turn."""
    out = []
    for number, turn in enumerate(turns):
        text = turn.text
        if number == 0 and shown:
            text = f"{shown}\n{text}"
        out.append(Message(turn.role, (text,)))
    return out


def phantom_chats(
    seed: int, first: int, patients: int
) -> Iterator[list[tuple[str, list[Message], Record]]]:
    """Chats about phantom patients: per document its turns; each with the record it came from."""
    speller = Processor(tokenizer_json="", image_size=0, visual_tokens=0)
    for index in range(first, first + patients):
        rng = stream(seed, "chats", index)
        drawn = draw_patient(seed, index, MODALITIES[int(rng.integers(len(MODALITIES)))].key)
        records = patient_records(drawn.images, drawn.changes, seed, index, 192, "train")
        truths = {truth.image_id: truth for truth in drawn.images}
        grouped: dict[str, list[Record]] = {}
        for record in records:
            names = [Path(image.locator).stem for image in record.images]
            grouped.setdefault(" ".join(names), []).append(record)
        for names_, all_own in grouped.items():
            own = [r for r in all_own if r.task in SHORT_TASKS or rng.random() < LONG_SHARE]
            order = [own[int(i)] for i in rng.permutation(len(own))]
            while order:
                seen = rng.random() < CONTEXT_SHARE
                take = int(rng.integers(2, 7)) if seen else 1
                picked, order = order[:take], order[take:]
                if any(record.task == "dialogue" for record in picked):
                    picked = [record for record in picked if record.task == "dialogue"]
                shown = ""
                if seen:
                    shown = "\n".join(describe(truths[name], rng) for name in names_.split())
                out: list[tuple[str, list[Message], Record]] = []
                for number, record in enumerate(picked):
                    turns = speller.conversation(
                        record,
                        option_order=[int(i) for i in rng.permutation(len(record.choices))],
                        answer=True,
                    )
                    kind = "shown" if seen else "blind"
                    out.append((kind, _without_images(turns, shown if number == 0 else ""), record))
                yield out


def train_tokenizer(texts: Iterator[str]) -> Tokenizer:
    """Byte-level BPE of `VOCABULARY` entries; the special tokens have the ids 0 to 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


# --- documents -------------------------------------------------------------------------------


def chat_document(
    processor: Processor, turns: list[Message], short: list[bool] | None = None
) -> Document:
    """A chat: long answers at weight 1, short ones at `SHORT_WEIGHT`, the rest at `PROMPT_WEIGHT`.

    `short` says of every assistant turn whether its answer is a short one.
    """
    encoded = processor.encode(turns)
    ids = [*encoded.input_ids, 0]
    answer_weights = [SHORT_WEIGHT if flag else 1.0 for flag in short or []]
    weights = [0.0]
    turn, inside = -1, False
    for target in encoded.targets:
        if target != IGNORE and not inside:
            turn += 1
        inside = target != IGNORE
        at_turn = answer_weights[turn] if answer_weights and inside else 1.0
        weights.append(at_turn if inside else PROMPT_WEIGHT)
    return Document(ids[:MAX_TOKENS], weights[:MAX_TOKENS])


def plain_document(processor: Processor, question: str, text: str) -> Document:
    """A medical text, as a chat where it has a question."""
    if question:
        turns = [Message("user", (question,)), Message("assistant", (text,))]
        made = chat_document(processor, turns)
        return Document(made.ids[:MEDICAL_TOKENS], made.weights[:MEDICAL_TOKENS])
    ids = [*processor.text_ids(text), 0][:MEDICAL_TOKENS]
    return Document(ids, [0.0] + [1.0] * (len(ids) - 1))


def _padded(documents: list[Document]) -> tuple[Tensor, Tensor]:
    """ids [B, T] and weights [B, T], padded on the right with weight 0."""
    longest = max(len(document.ids) for document in documents)
    ids = torch.zeros(len(documents), longest, dtype=torch.long)
    weights = torch.zeros(len(documents), longest)
    for row, document in enumerate(documents):
        ids[row, : len(document.ids)] = torch.tensor(document.ids)
        weights[row, : len(document.ids)] = torch.tensor(document.weights)
    return ids, weights


def batches(
    documents: list[Document], tokens: int, rng: np.random.Generator
) -> Iterator[list[Document]]:
    """Endless batches of about `tokens` tokens of documents of similar length."""
    lengths = np.asarray([len(document.ids) for document in documents])
    while True:
        order = np.argsort(lengths + rng.uniform(-8, 8, len(lengths)))
        groups: list[list[int]] = [[]]
        for index in order:
            if groups[-1] and (len(groups[-1]) + 1) * lengths[index] > tokens:
                groups.append([])
            groups[-1].append(int(index))
        for number in rng.permutation(len(groups)):
            yield [documents[index] for index in groups[int(number)]]


# --- training --------------------------------------------------------------------------------


def language_config() -> Qwen3Config:
    """The network's shape: 2.2 M parameters."""
    return Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=160,
        num_hidden_layers=6,
        num_attention_heads=5,
        num_key_value_heads=5,
        head_dim=32,
        intermediate_size=448,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )


def weighted_loss(model: Qwen3ForCausalLM, ids: Tensor, weights: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, weighted."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        wanted = weights[:, 1:] > 0
        logits = model.lm_head(hidden[wanted])
    losses = nn.functional.cross_entropy(logits.float(), ids[:, 1:][wanted], reduction="none")
    weight = weights[:, 1:][wanted]
    return (losses * weight).sum() / weight.sum()


@torch.no_grad()
def measure(
    model: Qwen3ForCausalLM, processor: Processor, seed: int, patients: int
) -> dict[str, float]:
    """Held-out figures: next-token accuracy of short answers, by question type, shown and blind.

    "P(yes) blind" is the mean probability of yes among yes and no on closed questions about
    nothing; 0.5 means that the model brings no prior.
    """
    model.eval()
    hits: dict[str, list[float]] = {}
    yes, no = processor.text_ids("yes"), processor.text_ids("no")
    for chats in phantom_chats(seed, 0, patients):
        kind, turns, record = chats[0]
        if record.task not in ("closed", "open", "choice"):
            continue
        encoded = processor.encode(turns[:-1], generation=True)
        answer = processor.text_ids(turns[-1].text)
        ids = torch.tensor([[*encoded.input_ids, *answer]])
        logits = (
            model(input_ids=ids, use_cache=False).logits[0, len(encoded.input_ids) - 1 : -1].float()
        )
        right = bool((logits.argmax(-1) == torch.tensor(answer)).all())
        name = f"{record.task} {record.facts['question_type']}"
        hits.setdefault(f"{kind} {name}", []).append(float(right))
        if kind == "blind" and record.task == "closed" and len(yes) == 1 and len(no) == 1:
            both = torch.softmax(logits[0][[yes[0], no[0]]], -1)
            hits.setdefault("P(yes) blind", []).append(float(both[0]))
    model.train()
    return {
        name: float(np.mean(values)) for name, values in sorted(hits.items()) if len(values) >= 5
    }


def train_language(
    seed: int,
    text_root: Path,
    *,
    patients: int,
    steps: int,
    tokens: int,
    minutes: float,
    learning_rate: float = 3e-3,
) -> tuple[Qwen3ForCausalLM, Processor, dict[str, float], dict[str, float]]:
    """Train tokenizer and network. Returns both, the held-out figures and what it cost."""
    torch.manual_seed(derive_seed(seed, "language") % 2**31)
    begin = time.monotonic()
    clinic = derive_seed(seed, "bases", "language", "train")
    chats = list(phantom_chats(clinic, 0, patients))
    medical = medical_texts(text_root)
    pairs = [pair for source in medical.values() for pair in source]
    print(
        {name: len(rows) for name, rows in medical.items()}, len(chats), "phantom chats", flush=True
    )
    sample = [
        "\n".join(turn.text for _, turns, _ in chat for turn in turns)
        for chat in chats[: max(2000, len(chats) // 6)]
    ]
    tokenizer = train_tokenizer(iter([*sample, *(f"{q}\n{a}" for q, a in pairs[::3])]))
    processor = Processor(tokenizer_json=tokenizer.to_str(), image_size=96, visual_tokens=144)
    documents = [
        chat_document(
            processor,
            [turn for _, turns, _ in chat for turn in turns],
            [
                record.task in SHORT_TASKS
                for _, turns, record in chat
                for turn in turns
                if turn.role == "assistant"
            ],
        )
        for chat in chats
    ]
    kept = stream(seed, "bases", "language", "medical").permutation(len(pairs))[:MEDICAL_DOCUMENTS]
    documents += [plain_document(processor, *pairs[int(index)]) for index in kept]
    count = sum(len(document.ids) for document in documents)
    print(
        f"{len(documents)} documents, {count} tokens, {time.monotonic() - begin:.0f} s", flush=True
    )
    config = language_config()
    config._attn_implementation = "eager"  # the backward of SDPA is slow on CPU at these sizes
    model = Qwen3ForCausalLM(config)
    matrices = [p for n, p in model.model.layers.named_parameters() if p.dim() == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    optimizers = [
        torch.optim.Muon(
            matrices, lr=learning_rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=learning_rate, weight_decay=0.0, betas=(0.9, 0.98)),
    ]
    feed = batches(documents, tokens, stream(seed, "bases", "language", "batches"))
    begin = time.monotonic()
    shown: list[float] = []
    seen = step = 0
    while True:
        spent = time.monotonic() - begin
        done = max(step / steps, spent / 60 / minutes)
        if done >= 1:
            break
        rate = (
            learning_rate
            * min(1.0, (step + 1) / 100)
            * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        )
        ids, weights = _padded(next(feed))
        loss = weighted_loss(model, ids, weights)
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
        step += 1
        seen += ids.numel()
        shown.append(float(loss.detach()))
        if step % 100 == 0:
            print(
                f"step {step}  {spent:.0f} s  {seen / max(spent, 1):.0f} tokens/s  loss {np.mean(shown[-100:]):.4f}",
                flush=True,
            )
        if step % 500 == 0:
            held = measure(model, processor, derive_seed(seed, "bases", "language", "watch"), 80)
            print(
                "  " + "  ".join(f"{name} {value:.2f}" for name, value in held.items()), flush=True
            )
    cost = {"steps": step, "tokens": seen, "seconds": time.monotonic() - begin}
    model.to(torch.bfloat16).to(torch.float32)  # as it is stored
    figures = measure(model, processor, derive_seed(seed, "bases", "language", "held-out"), 500)
    return model, processor, figures, cost


def save_language(model: Qwen3ForCausalLM, processor: Processor, folder: Path) -> None:
    """Write config.json, model.safetensors (bfloat16) and the tokenizer with its chat template."""
    processor.save(folder)
    for name in ("infimed_processor.json", "preprocessor_config.json"):
        (folder / name).unlink()
    model.config._attn_implementation = "sdpa"
    model.to(torch.bfloat16).save_pretrained(folder)
