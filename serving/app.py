"""The browser app: two views of a study, patch similarity, attention, and similar studies.

All data come from routes of our own under /v1 (see `routes`); Gradio serves the page around them.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..platform.core.errors import ConfigError
from ..platform.core.extras import require_extra
from .config import HOST, AppConfig
from .routes import api_routes
from .state import AppState

if TYPE_CHECKING:
    from fastapi import FastAPI

HERE = Path(__file__).parent

BACKGROUND = "#0a0c0f"
"""Background while the page loads; the same as in page.css."""


def serve(config: AppConfig) -> None:
    """Serves the app on 127.0.0.1 until Ctrl-C.

    Raises ConfigError if the port is in use or an extra is missing, before anything is loaded; else what `AppState`
    raises.
    """
    for library in ("fastapi", "gradio", "uvicorn"):
        require_extra(library, "the app")
    import uvicorn

    with _bound_socket(config.port) as listener:
        app = build(config)
        print(f"The app is at http://{HOST}:{config.port} (Ctrl-C stops it)", flush=True)
        settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        try:
            uvicorn.Server(settings).run(sockets=[listener])
        except KeyboardInterrupt:
            print("The app has stopped.", flush=True)


def build(config: AppConfig) -> FastAPI:
    """The whole app, ready to be served. Raises what `AppState` raises."""
    return mount_page(AppState(config))


def mount_page(state: AppState) -> FastAPI:
    """Our own routes first, then Gradio for everything else."""
    require_extra("gradio", "the app")
    # Read when gradio is first imported: no analytics.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    theme = gr.themes.Base(font=[gr.themes.LocalFont("IBM Plex Sans"), "system-ui", "sans-serif"])
    theme.set(body_background_fill=BACKGROUND, body_background_fill_dark=BACKGROUND)

    async def mount() -> FastAPI:
        # Without a running loop, gradio makes several and never closes them.
        return gr.mount_gradio_app(
            api_routes(state),
            page(),
            path="/",
            theme=theme,
            head=f"<style>{(HERE / 'page.css').read_text(encoding='utf-8')}</style>",
            footer_links=[],
            run_history=False,
            show_error=False,
            ssr_mode=False,
            server_name=HOST,
            server_port=state.config.port,
        )

    return asyncio.run(mount())


def page() -> Any:
    """The Gradio page: one HTML component, from page.html, page.css and page.js."""
    import gradio as gr

    with gr.Blocks(title="vetdino", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(
            html_template=(HERE / "page.html").read_text(encoding="utf-8"),
            js_on_load=(HERE / "page.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            elem_id="vetdino",
        )
    return blocks


def _bound_socket(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"port {port} of {HOST} cannot be used ({getattr(error, 'strerror', None) or error}); "
            "choose another with --port, or stop the program that uses it"
        ) from None
    return listener
