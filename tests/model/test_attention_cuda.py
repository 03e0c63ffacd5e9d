"""The CUDA path, with its kernel emulated: segment after segment on a CPU, under the real signature."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention

from infimed.model import attention
from infimed.model.attention import (
    Document,
    PackedLayout,
    attend_by_document,
    attend_reference,
    backend_for,
)
from infimed.model.attention_cuda import HALF, attend_varlen, segment_lengths

SHARED = PackedLayout((Document(9, (5, 3, 4)), Document(6), Document(2, (4,)), Document(0, (3, 2))))
PLAIN = PackedLayout((Document(9, (5,)), Document(6), Document(1)))
REAL = inspect.signature(varlen.varlen_attn)


class Emulated:
    """`varlen_attn` on a CPU; refuses what the kernel would refuse."""

    def __init__(self) -> None:
        self.offsets: list[torch.Tensor] = []
        self.dtypes: set[torch.dtype] = set()

    def __call__(self, *args, **kwargs):
        given = REAL.bind(*args, **kwargs)
        given.apply_defaults()
        call = given.arguments
        query, key, value = call["query"], call["key"], call["value"]
        assert len({t.dtype for t in (query, key, value)}) == 1
        assert all(t.is_contiguous() for t in (query, key, value))
        assert call["window_size"] == (-1, 0)
        assert call["enable_gqa"] or query.shape[1] == key.shape[1]
        ends = [call["cu_seq_q"], call["cu_seq_k"]]
        for offsets, tensor in zip(ends, (query, key), strict=True):
            assert offsets.dtype == torch.int32 and offsets.device == query.device
            assert int(offsets[-1]) == len(tensor)
        longest = [int(offsets.diff().max()) for offsets in ends]
        assert longest == [call["max_q"], call["max_k"]]
        self.offsets.append(ends[0])
        self.dtypes.add(query.dtype)
        out = []
        for (q0, q1), (k0, k1) in zip(*(e.unfold(0, 2, 1).tolist() for e in ends), strict=True):
            queries, keys = q1 - q0, k1 - k0
            seen = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
            q, k, v = (t.transpose(0, 1)[None] for t in (query[q0:q1], key[k0:k1], value[k0:k1]))
            made = scaled_dot_product_attention(
                q, k, v, attn_mask=seen, scale=call["scale"], enable_gqa=True
            )
            out.append(made[0].transpose(0, 1))
        return torch.cat(out)


@pytest.fixture
def kernel(monkeypatch):
    emulated = Emulated()
    monkeypatch.setattr(varlen, "varlen_attn", emulated)
    return emulated


def tensors(layout, heads, groups):
    torch.manual_seed(0)
    shapes = (heads, groups, groups)
    return [torch.randn(1, n, layout.tokens, 8, requires_grad=True) for n in shapes]


@pytest.mark.parametrize("layout", [SHARED, PLAIN])
def test_segments_see_exactly_what_the_dense_mask_allows(layout):
    queries, keys, gather = segment_lengths(layout.documents)
    seen = torch.zeros(layout.tokens, layout.tokens, dtype=torch.bool)
    query_at = key_at = 0
    for wanted, shown in zip(queries, keys, strict=True):
        for i in range(wanted):
            seen[query_at + i, gather[key_at : key_at + shown - wanted + i + 1]] = True
        query_at += wanted
        key_at += shown
    assert torch.equal(seen, layout.dense_mask())


@pytest.mark.parametrize("layout", [SHARED, PLAIN])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (4, 1)])
def test_varlen_equals_the_reference_forward_and_backward(kernel, layout, heads, groups):
    given = tensors(layout, heads, groups)
    weight = torch.randn(1, heads, layout.tokens, 8)
    found = []
    for backend in (attend_varlen, attend_reference):
        out = backend(*given, layout, 0.3)
        found.append([out, *torch.autograd.grad((out * weight).sum(), given)])
    for ours, reference in zip(*found, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)


def test_only_shared_trunks_are_copied():
    assert PLAIN.segments(torch.device("cpu")).gather is None
    gather = SHARED.segments(torch.device("cpu")).gather
    assert gather is not None and len(gather) == SHARED.tokens + 2 * 9


def test_model_on_varlen_equals_the_loop_for_a_mixed_row(
    kernel, packed_model, row_gradients, monkeypatch
):
    loop, expected = row_gradients()
    monkeypatch.setattr(attention, "backend_for", lambda device, dtype: attend_varlen)
    loss, gradients = row_gradients()
    torch.testing.assert_close(loss, loop, atol=1e-5, rtol=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4)
    layers = packed_model.config.text_config.num_hidden_layers
    assert len(kernel.offsets) == layers
    assert all(one is kernel.offsets[0] for one in kernel.offsets)  # made once a row


def test_kernel_gets_half_precision_under_autocast(kernel, row_gradients, monkeypatch):
    """Norms of queries and keys give fp32 there, which the kernel would refuse."""
    monkeypatch.setattr(attention, "backend_for", lambda device, dtype: attend_varlen)
    with torch.autocast("cpu", torch.bfloat16):
        row_gradients()
    assert kernel.dtypes == {torch.bfloat16}


def test_fp32_on_cuda_goes_to_the_reference():
    cuda = torch.device("cuda")
    assert backend_for(cuda, torch.float32) is attend_reference
    assert all(backend_for(cuda, dtype) is attend_varlen for dtype in HALF)
    assert backend_for(torch.device("cpu"), torch.float32) is attend_by_document
