"""Packed documents and branches compute exactly what each computes alone."""

from __future__ import annotations

import pytest
import torch

from infimed.model.attention import (
    PACKED,
    Document,
    PackedLayout,
    attend_by_document,
    attend_reference,
    packed_attention,
)
from infimed.model.modeling import LeakingCallError

LAYOUT = PackedLayout((Document(9, (5, 3, 4)), Document(6), Document(2, (4,)), Document(1)))


def attend_by_hand(query, key, value, layout, scale):
    """The slowest and plainest form: every token, every key it may see, one at a time."""
    out = torch.zeros_like(query)
    group = query.shape[1] // key.shape[1]
    start = 0
    for document in layout.documents:
        owner = [0] * document.trunk
        for number, branch in enumerate(document.branches, start=1):
            owner += [number] * branch
        for i, own in enumerate(owner):
            sees = [start + j for j in range(i + 1) if owner[j] in (0, own)]
            for head in range(query.shape[1]):
                scores = key[0, head // group, sees] @ query[0, head, start + i] * scale
                out[0, head, start + i] = scores.softmax(0) @ value[0, head // group, sees]
        start += document.length
    return out


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    tokens = LAYOUT.tokens
    return (
        torch.randn(1, 4, tokens, 8, requires_grad=True),
        torch.randn(1, 2, tokens, 8, requires_grad=True),
        torch.randn(1, 2, tokens, 8, requires_grad=True),
    )


@pytest.mark.parametrize("backend", [attend_by_document, attend_reference])
def test_backend_equals_attention_by_hand(backend, tensors):
    expected = attend_by_hand(*tensors, LAYOUT, 0.3)
    torch.testing.assert_close(backend(*tensors, LAYOUT, 0.3), expected, atol=1e-5, rtol=1e-5)


def test_loop_and_reference_have_equal_gradients(tensors):
    weight = torch.randn(1, 4, LAYOUT.tokens, 8)
    found = []
    for backend in (attend_by_document, attend_reference):
        found.append(torch.autograd.grad((backend(*tensors, LAYOUT, 0.3) * weight).sum(), tensors))
    for loop, reference in zip(*found, strict=True):
        torch.testing.assert_close(loop, reference, atol=1e-5, rtol=1e-5)


def test_what_is_not_finite_stays_in_its_document(tensors):
    """Padding must not point into another document: zero times NaN is NaN."""
    expected = attend_by_document(*tensors, LAYOUT, 0.3)
    first = LAYOUT.documents[0].length
    poisoned = [tensor.detach().clone() for tensor in tensors]
    for tensor in poisoned:
        tensor[:, :, :first] = float("nan")
        tensor.requires_grad_()
    found = attend_by_document(*poisoned, LAYOUT, 0.3)
    torch.testing.assert_close(found[:, :, first:], expected[:, :, first:])
    for gradient in torch.autograd.grad(found[:, :, first:].sum(), poisoned):
        assert gradient[:, :, first:].isfinite().all()


def test_positions_go_on_from_the_trunk_in_every_branch():
    assert PackedLayout((Document(3, (2, 1)), Document(2))).position_ids().tolist() == [
        [0, 1, 2, 3, 4, 3, 0, 1]
    ]


def test_attention_without_layout_is_refused(tensors):
    with pytest.raises(ValueError, match="layout"):
        packed_attention(torch.nn.Identity(), *tensors, None, scaling=1.0)


def test_attention_with_a_mask_is_refused(tensors):
    with pytest.raises(ValueError, match="attention_mask"):
        packed_attention(
            torch.nn.Identity(), *tensors, torch.ones(1, 3), scaling=1.0, layout=LAYOUT
        )


def test_layout_of_another_row_is_refused(tensors):
    with pytest.raises(ValueError, match="tokens"):
        packed_attention(
            torch.nn.Identity(), *tensors, None, scaling=1.0, layout=PackedLayout((Document(4),))
        )


def row_of(layout, images):
    torch.manual_seed(1)
    ids = torch.randint(4, 300, (layout.tokens,))
    start = 0
    for document, has_image in zip(layout.documents, images, strict=True):
        if has_image:
            ids[start + 1 : start + 5] = 3
        start += document.length
    targets = torch.where(
        torch.rand(layout.tokens) < 0.5, torch.randint(4, 300, (layout.tokens,)), -100
    )
    return ids, targets


def test_packed_row_equals_separate_forwards_in_loss_and_gradients(make_model):
    """Mixed rows: a shared image with three questions, text only, one question, a single token."""
    from infimed.training.loss import target_losses

    layout = PackedLayout((Document(9, (5, 3, 4)), Document(6), Document(7, (4,)), Document(1)))
    images = (True, False, True, False)
    model = make_model()
    model.set_grid(4, 32)
    ids, targets = row_of(layout, images)
    pixels = torch.randn(2, 3, 32, 32)
    model.set_attention(PACKED)
    packed = target_losses(
        model.lm_head, model.forward_row(ids, layout, pixels=pixels), targets
    ).sum()
    packed.backward()
    packed_gradients = {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }

    model.zero_grad()
    model.set_attention("sdpa")
    total = torch.zeros(())
    start = shown = 0
    for document, has_image in zip(layout.documents, images, strict=True):
        trunk = slice(start, start + document.trunk)
        features = model.image_features(pixels[shown : shown + 1]) if has_image else None
        at = start + document.trunk
        for number, branch in enumerate(document.branches or (0,)):
            own = torch.cat([ids[trunk], ids[at : at + branch]])
            wanted = torch.cat([targets[trunk], targets[at : at + branch]])
            if number:
                wanted[: document.trunk] = -100  # the trunk's own targets count once
            hidden = model.model.language_model(
                inputs_embeds=model.embed(own[None], features), use_cache=False
            ).last_hidden_state[0]
            total = total + target_losses(model.lm_head, hidden, wanted).sum()
            at += branch
        shown += has_image
        start += document.length
    total.backward()
    torch.testing.assert_close(packed, total, atol=1e-4, rtol=1e-5)
    assert packed_gradients
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(packed_gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("leak", [{"attention_mask": torch.ones(1, 6)}, {"use_cache": True}])
def test_call_that_would_leak_between_documents_is_refused(make_model, leak):
    model = make_model()
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    with pytest.raises(LeakingCallError, match="see one another"):
        model(input_ids=torch.full((1, 6), 7), position_ids=positions, **leak)


def test_stock_call_really_leaks_which_is_why_it_is_refused(make_model):
    """Keeps the reason alive: if transformers one day isolates this call, the refusal can go."""
    model = make_model()
    ids = torch.arange(10, 16)[None]
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    language = model.model.language_model
    alone = language(input_ids=ids[:, 3:], use_cache=False).last_hidden_state
    leaked = language(
        input_ids=ids, position_ids=positions, attention_mask=torch.ones(1, 6)
    ).last_hidden_state
    assert (leaked[:, 3:] - alone).abs().max() > 1e-3


def test_row_forward_without_packed_attention_is_refused(make_model):
    model = make_model()
    with pytest.raises(LeakingCallError, match="set_attention"):
        model.forward_row(torch.full((4,), 7), PackedLayout((Document(4),)))
