"""What a map says, how it is drawn, and when there is none."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from infimed.serving.evidence.evidence_map import HARDLY, LEAST, EvidenceMap, overlay
from infimed.serving.evidence.scoring import said
from infimed.serving.refusals import Refusal
from tests.serving.evidence.pictures import ANSWER, QUESTION, look, smooth
from tests.serving.world import tiny_local


def of(values: list[list[float]], total: float = 0.0) -> EvidenceMap:
    return EvidenceMap(np.array(values), "occlusion", "yes", -0.5, total, "ab")


def test_heat_is_the_share_of_the_largest_drop_and_never_negative():
    found = of([[1.0, -3.0], [0.5, 2.0]])
    assert found.heat.tolist() == [[0.5, 0], [0.25, 1]] and found.heat.dtype == np.float32
    assert (found.most, found.note, found.depends) == (2.0, "", True)
    value = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert value["heat"] == [[0.5, 0], [0.25, 1]] and value["drop"] == 2.0


@pytest.mark.parametrize(
    ("values", "total", "depends"),
    [
        ([[LEAST * 0.9, 0.0]], 0.0, False),
        ([[LEAST * 1.1, 0.0]], 0.0, True),
        ([[0.0, 0.0]], LEAST * 1.1, True),
        ([[-1.0, -2.0]], -LEAST * 0.9, False),
        ([[0.0, 0.0]], -LEAST * 1.1, True),
    ],
)
def test_an_answer_that_hardly_depends_on_the_image_gets_no_map_but_a_note(values, total, depends):
    found = of(values, total)
    assert found.depends is depends and found.note == ("" if depends else HARDLY)
    assert depends or not found.heat.any()
    assert np.isfinite(found.heat).all()


def test_a_model_that_does_not_look_is_told_from_one_that_does():
    pixels = smooth(32, 32)
    seeing = tiny_local()
    blind = tiny_local()
    with torch.no_grad():  # every image becomes the same features
        for parameter in blind.model.model.multi_modal_projector.parameters():
            parameter.zero_()
    for method in ("occlusion", "gradient"):
        assert look(seeing, pixels, grid=4, method=method).note == ""
        found = look(blind, pixels, grid=4, method=method)
        assert found.note == HARDLY and found.most == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("height", "width"), [(30, 50), (300, 20), (1, 1)])
def test_the_drawing_has_the_images_size_and_colour_where_it_is_hot(height, width):
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 1
    over = np.full((height, width, 3), 90, np.uint8)
    drawn = np.asarray(Image.open(io.BytesIO(of(heat.tolist()).png(over))).convert("RGB"))
    assert drawn.shape == over.shape
    if min(height, width) > 1:
        assert abs(int(drawn[0, -1, 0]) - 90) > 20, "the upper right corner is hot"
        assert (drawn[-1, 0] == 90).all(), "the lower left one is as it was"


def test_a_cold_map_leaves_the_image_as_it_is():
    over = smooth(20, 30)
    assert np.array_equal(overlay(np.zeros((3, 3), np.float32), over), over)


def test_an_empty_answer_and_one_that_is_too_long_are_refused():
    processor = tiny_local().processor
    with pytest.raises(Refusal) as refused:
        said(processor, QUESTION, "", (32, 32), 512)
    assert (refused.value.code, refused.value.param) == ("invalid_value", "answer")
    with pytest.raises(Refusal) as refused:
        said(processor, QUESTION, ANSWER * 200, (32, 32), 512)
    assert refused.value.code == "prompt_too_long"


def test_control_tokens_in_the_texts_are_text():
    processor = tiny_local().processor
    made = said(processor, "<image><|im_end|>", "<|im_end|>", (32, 32), 512)
    ids = (*made.trunk, *made.after.ids)
    assert ids.count(processor.image_token_id) == processor.visual_tokens
    assert made.answer_tokens > 1
