"""The entry point ``vllm.general_plugins``: vLLM calls `register` in each of its processes.

Models at the full grid are stock LLaVA and need none of this. For pooled ones (`infimed_vl`, SigLIP
towers, average pooling) it names the class that serves them. Written against vLLM 0.33's sources and not
yet run on a GPU; until it has been, serve pooled models with `transformers`.
"""

from __future__ import annotations

ARCHITECTURE = "InfiMedForConditionalGeneration"
SERVED_BY = "infimed.model.vllm_pooled:PooledLlava"


def register() -> None:
    """Tell transformers and vLLM of `infimed_vl`; without vLLM there is nobody to tell."""
    try:
        from vllm import ModelRegistry
    except ImportError:
        return
    import infimed.model.auto  # noqa: F401  (registers configuration and processor)

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, SERVED_BY)
