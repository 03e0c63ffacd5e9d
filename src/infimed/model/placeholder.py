"""The image placeholder in a tokenizer that has none.

The embedding keeps its rows: models are published with more rows than tokens (Qwen3: 151,936 rows), and
an unused one becomes the placeholder's. Its value is never read, image features take its place.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer

from infimed.core.errors import DataError


def with_placeholder(tokenizer_json: str, token: str, rows: int, where: str) -> str:
    """A serialised tokenizer in which `token` is a special token with a row of its own.

    Args:
        rows: rows of the embedding.
        where: the tokenizer's file, for messages.

    Raises:
        DataError: not a tokenizer, or the embedding has no row to spare.
    """
    if "{" in token or "}" in token:  # it becomes part of the chat template
        raise DataError("an image placeholder cannot hold braces", where=where, seen=token)
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # the library raises bare exceptions
        raise DataError(f"is not a tokenizer ({error})", where=where) from error
    added = tokenizer.get_added_tokens_decoder()
    known = tokenizer.token_to_id(token)
    if known is not None and known in added and added[known].special and known < rows:
        return tokenizer_json
    if known is not None and known not in added:
        raise DataError(
            "the image placeholder is an ordinary word, which a user could type",
            where=where,
            seen=f"{token!r}, token {known}",
        )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    index = tokenizer.token_to_id(token)
    if index is None or index >= rows:
        raise DataError(
            f"no row of the embedding is left for the image placeholder {token}",
            where=where,
            seen=f"{tokenizer.get_vocab_size()} tokens with it, {rows} rows",
            fix="use a tokenizer that has the placeholder, or an embedding with unused rows",
        )
    return str(tokenizer.to_str())
