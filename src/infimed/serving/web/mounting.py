"""Puts the page up on a server, and takes its folder down with it.

Invariant: Gradio fetches nothing. A browser can name an address where a file is expected, and Gradio would get it.

Gradio is told not to call home before it is imported. It learns its folder from the environment: one server with a page a
process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI

from infimed.serving.keys import Keys
from infimed.serving.logs import frames_of
from infimed.serving.refusals import Refusal
from infimed.serving.service import Service
from infimed.serving.web.door import PREFIX, Door
from infimed.serving.web.entrance import Entrance
from infimed.serving.web.holding import Holding

LOG: Final = logging.getLogger("infimed.serving")
QUIET: Final = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_NUM_PORTS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""What Gradio and the hub's client read when they are imported or started."""


def mount(inner: FastAPI, service: Service, keys: Keys) -> Door:
    """The page on a server, and the door that requests come through instead of `inner`.

    Args:
        inner: with its other routes. keys: a visitor needs one of them, where there are any.
    """
    folder = Path(tempfile.mkdtemp(prefix="infimed-page-")).resolve()
    os.environ.update(QUIET, GRADIO_TEMP_DIR=str(folder))
    import gradio as gr

    from infimed.serving.web.page import blocks
    from infimed.serving.web.session import Sessions
    from infimed.serving.web.viewer import Viewer

    _say_nothing()
    _fetch_nothing()
    holding = Holding(service.settings.limits.bytes_in_flight)
    door = Door(inner, service, Entrance(keys), holding, folder)
    page = blocks(service, Sessions(service, holding, door.owns), Viewer(folder))
    gr.mount_gradio_app(
        inner,
        page,
        PREFIX,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=service.settings.limits.image_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=_theme(gr),
    )
    page.has_launched = (
        True  # without it Gradio copies any file that a browser names into its folder
    )
    _empty_at_the_end(inner, folder)
    return door


def _empty_at_the_end(inner: FastAPI, folder: Path) -> None:
    before = inner.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        try:
            async with before(app) as state:
                yield state
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    inner.router.lifespan_context = lifespan


def _theme(gr: Any) -> Any:
    """System fonts, dark blue on white, no shadows; contrast is at least that of WCAG AA."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Noto Sans CJK SC", "sans-serif"]  # fmt: skip
    return gr.themes.Base(
        primary_hue=gr.themes.colors.sky,
        neutral_hue=gr.themes.colors.slate,
        font=[gr.themes.Font(name) for name in fonts],
        font_mono=[gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")],
        radius_size=gr.themes.sizes.radius_sm,
    ).set(
        body_background_fill="#f3f6f8",
        body_text_color="#16202a",
        body_text_color_subdued="#46545f",
        block_label_text_color="#33424e",
        block_title_text_color="#33424e",
        block_title_text_weight="600",
        block_border_color="#d3dce2",
        input_background_fill="#ffffff",
        input_border_color="#8896a1",
        input_border_color_dark="#5f7385",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_placeholder_color="#5b6975",
        button_primary_background_fill="#0b4f6c",
        button_primary_background_fill_hover="#083b51",
        button_primary_background_fill_dark="#0f6a92",
        button_primary_background_fill_hover_dark="#0b5576",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_secondary_background_fill="#e3eaef",
        button_secondary_background_fill_hover="#d3dde4",
        button_secondary_text_color="#16202a",
        checkbox_label_background_fill_selected="#0b4f6c",
        checkbox_label_text_color_selected="#ffffff",
        checkbox_label_background_fill_selected_dark="#0f6a92",
        checkbox_label_text_color_selected_dark="#ffffff",
        slider_color="#0b4f6c",
        stat_background_fill="#0b4f6c",
        color_accent="#0b4f6c",
    )


class _Silent:
    """In place of the module `traceback` in Gradio's queue, which prints what users sent."""

    @staticmethod
    def print_exc(*_: Any, **__: Any) -> None:
        """Log where it happened, not what."""
        import sys

        LOG.error("failed", extra={"frames": frames_of(sys.exc_info()[1])})


async def _kept(block: Any, place: str | Path | None) -> str | None:
    """In place of Gradio's way of taking a file in, which fetches what is an address and copies what lies elsewhere.

    Raises:
        Refusal: it is no file of the page's folder.
    """
    if place is None:
        return None
    try:
        path = Path(place).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise Refusal("image_missing") from None
    if not path.is_file() or not path.is_relative_to(block.GRADIO_CACHE):
        raise Refusal("image_missing")
    return str(path)


def _fetch_nothing() -> None:
    from gradio.blocks import Block

    Block.async_move_resource_to_block_cache = _kept


def _say_nothing() -> None:
    import gradio.queueing
    import gradio.routes

    for module in (gradio.queueing, gradio.routes):
        module.traceback = _Silent
