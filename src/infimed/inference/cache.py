"""Keys and values that a batch of rows has left behind, and the attention that reads them.

The tokens of a pass go through the network packed, one after another, whatever row they belong to, so
nothing is ever computed for padding. Only here they are sorted into rows. Every row has slots,
filled in order; every slot has an owner: the row's trunk, or one of the branches that grow from it.
A token sees the trunk's slots and its own branch's, up to its own. Nothing else of transformers' is used:
no mask, no cache object. Documents that begin (see `branches.fill`) are computed by the same code as in
training.

Memory: 2 * layers * key-value heads * head width * bytes of the dtype for each slot, grown by a quarter
where it is full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PretrainedConfig

from infimed.model.attention import Document, PackedLayout, packed_attention

CACHED = "infimed_cached"
"""Name under which the attention is registered with transformers."""

TRUNK, FREE = -1, -2
"""Owners of slots that are no branch's."""
SLOTS = 16
"""Numbers of slots are multiples of this, as the kernels like them."""


def head_width(text: PretrainedConfig) -> int:
    """Width of a head of a language model."""
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def slot_bytes(text: PretrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of one token in all layers."""
    numbers = 2 * text.num_hidden_layers * text.num_key_value_heads * head_width(text)
    return int(numbers) * dtype.itemsize


@dataclass
class KeyValues:
    """The cache of a batch.

    Attributes:
        text: configuration of the language model.
        lengths: slots in use, by row of the batch.
        owner: int64 [rows, capacity]: a branch's number, `TRUNK` or `FREE`.
        keys, values: by layer, [rows, key-value heads, capacity, head width].
    """

    text: PretrainedConfig
    rows: InitVar[int]
    device: torch.device
    dtype: torch.dtype
    lengths: list[int] = field(init=False)
    owner: Tensor = field(init=False)
    keys: list[Tensor] = field(init=False)
    values: list[Tensor] = field(init=False)

    def __post_init__(self, rows: int) -> None:
        self.lengths = [0] * rows
        self.owner = torch.full((rows, 0), FREE, device=self.device)
        shape = (rows, self.text.num_key_value_heads, 0, head_width(self.text))
        made = [
            torch.zeros(shape, dtype=self.dtype, device=self.device)
            for _ in range(2 * self.text.num_hidden_layers)
        ]
        self.keys, self.values = made[::2], made[1::2]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, slots that are not in use included."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    @property
    def used(self) -> int:
        """Slots up to which any row is filled, rounded up."""
        return -(-max(self.lengths, default=0) // SLOTS) * SLOTS

    def reserve(self, capacity: int) -> None:
        """Have room for `capacity` slots a row; what is there stays."""
        there = self.owner.shape[1]
        if capacity > there:
            self._widen(-(-max(capacity, there + there // 4) // SLOTS) * SLOTS)

    def _widen(self, capacity: int) -> None:
        pad = torch.nn.functional.pad
        # Zeros, not garbage: a probability of 0 times a stray infinity would be no number.
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                if capacity > tensor.shape[2]:
                    tensors[layer] = pad(tensor, (0, 0, 0, capacity - tensor.shape[2]))
        # Last: where memory ended above, the next call goes on.
        if capacity > self.owner.shape[1]:
            self.owner = pad(self.owner, (0, capacity - self.owner.shape[1]), value=FREE)

    def claim(self, rows: Sequence[int], owners: Sequence[int]) -> list[int]:
        """The next free slot of each token's row, in order; `owners` as in `owner`."""
        slots = []
        for row in rows:
            slots.append(self.lengths[row])
            self.lengths[row] += 1
        self.reserve(max(self.lengths))
        where = torch.tensor([rows, slots], device=self.device)
        self.owner[where[0], where[1]] = torch.tensor(owners, device=self.device)
        return slots

    def keep(self, rows: Sequence[int], *, narrow: bool = False) -> None:
        """Forget all rows but these; they are renumbered in the order given.

        Args:
            narrow: also give back the slots that none of them uses.
        """
        index = torch.tensor(rows, device=self.device)
        self.lengths = [self.lengths[row] for row in rows]
        wide = self.used if narrow else self.owner.shape[1]
        self.owner = self.owner[:, :wide][index]
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                tensors[layer] = tensor[:, :, :wide][index]

    def join(self, other: KeyValues) -> None:
        """Take in the rows of another cache, numbered after the own ones."""
        capacity = max(self.owner.shape[1], other.owner.shape[1])
        self._widen(capacity)
        other._widen(capacity)
        self.lengths = [*self.lengths, *other.lengths]
        self.owner = torch.cat([self.owner, other.owner])
        for own, more in ((self.keys, other.keys), (self.values, other.values)):
            for layer, tensor in enumerate(more):
                own[layer] = torch.cat([own[layer], tensor])

    def taken(self, row: int, branch: int) -> Tensor:
        """A copy of what a branch of a row sees: [2 * layers, key-value heads, tokens, head width]."""
        owner = self.owner[row, : self.lengths[row]]
        slots = ((owner == TRUNK) | (owner == branch)).nonzero()[:, 0]
        return torch.stack([tensor[row][:, slots] for tensor in (*self.keys, *self.values)])

    def put(self, row: int, taken: Tensor) -> None:
        """Begin an empty row with what `taken` gave; every branch of the row sees it."""
        length = taken.shape[2]
        self.claim([row] * length, [TRUNK] * length)
        for tensor, copy in zip((*self.keys, *self.values), taken, strict=True):
            tensor[row, :, :length] = copy

    def rewind(self, lengths: Sequence[int]) -> None:
        """Give back the slots that were claimed after the rows had these lengths."""
        for row, (before, now) in enumerate(zip(lengths, self.lengths, strict=True)):
            self.owner[row, before:now] = FREE
        self.lengths = list(lengths)

    def crop(self, length: int) -> None:
        """Forget the slots after the first `length` of every row."""
        self.lengths = [min(length, old) for old in self.lengths]
        self.owner[:, length:] = FREE


@dataclass(frozen=True)
class Grid:
    """Tokens of a pass sorted into rows, padded to the row with most of them.

    Attributes:
        index: int64 [rows * width]: the token at each place; padding points to 0.
        place: int64 [tokens]: where each token is.
        bias: [rows, 1, width, slots]: 0 where a token may look, else -inf.
    """

    index: Tensor
    place: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Pass:
    """What the attention must know of the tokens of a pass, made once for all layers.

    Attributes:
        cache: where their keys and values go; None where nothing follows.
        where: int64 [2, tokens]: row and slot of each.
        layout: the documents that begin with this pass and see nothing before it. biases: of each
            document's branches. grid: instead of both, for tokens that go on with what is cached.
    """

    cache: KeyValues | None
    where: Tensor | None
    layout: PackedLayout | None = None
    biases: Sequence[Tensor] = ()
    grid: Grid | None = None


def grid_of(cache: KeyValues, rows: Sequence[int], slots: Sequence[int]) -> Grid:
    """Where tokens are in the grid and what each may see; their slots are claimed already."""
    counts = [0] * len(cache.lengths)
    columns = []
    for row in rows:
        columns.append(counts[row])
        counts[row] += 1
    width, used = max(counts), cache.used
    cache.reserve(used)
    device = cache.device
    row, slot, column = torch.tensor([rows, slots, columns], device=device)
    place = row * width + column
    index = torch.zeros(len(counts) * width, dtype=torch.int64, device=device)
    index[place] = torch.arange(len(rows), device=device)
    owner = cache.owner[:, :used]
    seen = (owner[row] == TRUNK) | (owner[row] == cache.owner[row, slot][:, None])
    seen &= torch.arange(used, device=device) <= slot[:, None]
    bias = torch.zeros(len(counts) * width, used, dtype=cache.dtype, device=device)
    bias[place] = bias[place].masked_fill_(~seen, -torch.inf)
    return Grid(index, place, bias.view(len(counts), 1, width, used))


def branch_bias(document: Document, dtype: torch.dtype) -> Tensor:
    """What the branches of a document may see: 0 or -inf, [tokens of branches, document]."""
    if not document.branches:
        return torch.zeros(0, 0, dtype=dtype)
    seen = document.mask()[document.trunk :]
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)


def attend_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PackedLayout,
    scale: float,
    biases: Sequence[Tensor],
) -> Tensor:
    """Documents one by one with torch's fused kernel, which without a backward pass is faster on a CPU than
    what training uses, and equal to it in fp32. Shapes as in `packed_attention`."""
    shape = (1, layout.tokens, *query.shape[1:2], *query.shape[3:])
    out = query.new_empty(shape).transpose(1, 2)
    begin = 0
    for document, branches in zip(layout.documents, biases, strict=True):
        # Trunk or, without branches, all: causal. Then the branches, which see the whole document.
        middle, end = begin + document.trunk, begin + document.length
        for first, bias in ((begin, None), (middle, branches)):
            last = middle if bias is None else end
            if first == last:
                continue
            out[:, :, first:last] = scaled_dot_product_attention(
                query[:, :, first:last],
                key[:, :, begin:last],
                value[:, :, begin:last],
                attn_mask=bias,
                is_causal=bias is None,
                scale=scale,
                enable_gqa=True,
            )
        begin = end
    return out


def attend_cached(query: Tensor, keys: Tensor, values: Tensor, grid: Grid, scale: float) -> Tensor:
    """Attention [1, tokens, heads, d] of packed tokens to their rows' slots.

    All heads of a group are queries of its one key head, so keys and values are never repeated.

    Args:
        query: [1, heads, tokens, d]. keys, values: [rows, groups, slots, d].
    """
    rows, groups, slots, size = keys.shape
    heads, width = query.shape[1], grid.bias.shape[2]
    asked = query[0].transpose(0, 1).index_select(0, grid.index)
    asked = asked.view(rows, width, groups, heads // groups, size).permute(0, 2, 3, 1, 4)
    bias = grid.bias.expand(rows, heads // groups, width, slots).reshape(rows, 1, -1, slots)
    seen = scaled_dot_product_attention(
        asked.reshape(rows, groups, -1, size), keys, values, attn_mask=bias, scale=scale
    )
    seen = seen.view(rows, groups, -1, width, size).permute(0, 3, 1, 2, 4)
    return seen.reshape(rows * width, heads, size).index_select(0, grid.place).unsqueeze(0)


def cached_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    step: Pass | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The registered implementation; returns [1, tokens, heads, d] as transformers expects.

    Raises:
        ValueError: the call is not one of `branches`.
    """
    if step is None or attention_mask is not None or len(query) != 1:
        raise ValueError("cached attention needs step=Pass(...), one packed row, and no mask")
    if step.cache is not None and step.where is not None:
        row, slot = step.where
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        step.cache.keys[layer][row, :, slot] = key[0].transpose(0, 1)
        step.cache.values[layer][row, :, slot] = value[0].transpose(0, 1)
        if step.grid is not None:
            used = step.grid.bias.shape[-1]
            keys = step.cache.keys[layer][:, :, :used]
            values = step.cache.values[layer][:, :, :used]
            return attend_cached(query, keys, values, step.grid, scaling), None
    backend = partial(attend_forward, biases=step.biases) if query.device.type == "cpu" else None
    return packed_attention(
        module, query, key, value, None, scaling=scaling, layout=step.layout, backend=backend
    )


AttentionInterface.register(CACHED, cached_attention)
