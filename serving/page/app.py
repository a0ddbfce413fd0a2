"""The page: two views of a study, patch similarity, attention, and similar studies.

It is the service with a page around it: all data come from the routes under /v1; Gradio serves the rest.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ...platform.core.errors import ConfigError, GalleryError
from ...platform.core.extras import require_extra
from ...platform.core.location import Location
from ..config import HOST, AppConfig, ServiceConfig
from ..engine.engine import ServiceEngine
from ..engine.model import check_side, load_backbones
from ..engine.opening import open_browser, open_engine
from ..engine.tables import gallery_from_table
from ..gallery.bundle import is_bundle
from ..gallery.gallery import open_version
from ..service.api import create_app
from ..service.server import bound_socket, run

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ...platform.models.backbone import Backbone

HERE = Path(__file__).parent

ROOM = HERE / "room"
"""Modules and styles of the page, served under /room."""

BACKGROUND = "#0a0c0f"
"""Background while the page loads; the same as in page.css."""


def serve(config: AppConfig) -> None:
    """Serves the page on 127.0.0.1 until Ctrl-C.

    Raises ConfigError if the port is in use or an extra is missing, before anything is loaded; else what `open_app`
    raises.
    """
    for library in ("fastapi", "gradio", "uvicorn"):
        require_extra(library, "the app")
    with bound_socket(HOST, config.port) as listener, open_app(config) as engine:
        run(mount_page(engine, config.port), listener, engine.limits.body_s, "The app")


@contextmanager
def open_app(config: AppConfig) -> Iterator[ServiceEngine]:
    """The engine of the page; galleries that are not given are built from features and removed afterwards.

    Raises ConfigError, ShardError, CheckpointError, FeaturesError or GalleryError.
    """
    with TemporaryDirectory(prefix="vetdino-galleries-") as folder:
        backbones, found = galleries(config, Path(folder))
        service = replace(service_config(config), galleries=tuple(map(Location, found)))
        engine = open_engine(service, backbones)
        try:
            yield engine
        finally:
            engine.close()


def service_config(config: AppConfig) -> ServiceConfig:
    """The service below the page."""
    return ServiceConfig(
        device=config.device,
        backbones=config.backbones,
        shards=config.shards,
        split=config.split,
        limit=config.limit,
        runs=config.runs,
        side=config.side,
    )


def galleries(config: AppConfig, folder: Path) -> tuple[list[Backbone], list[Path]]:
    """The backbones, and a gallery for each: the one given, or one built from the features given, or computed, in a
    folder."""
    from ...platform.measure.extraction import extract
    from ...platform.measure.features import load_features

    service = service_config(config)
    if len(config.features) > len(config.backbones):
        raise ConfigError(
            f"{len(config.features)} feature tables for {len(config.backbones)} backbones; "
            "give the i-th table for the i-th backbone"
        )
    browser = open_browser(service)
    assert browser is not None
    backbones = load_backbones(service)
    given = [_bundle(path) if is_bundle(path) else load_features(path) for path in map(Path, config.features)]
    for backbone in backbones:  # before any of them embeds a split
        check_side(config.side or backbone.side, backbone)
    found = []
    for number, backbone in enumerate(backbones):
        source = given[number] if number < len(given) else None
        if isinstance(source, Path):
            found.append(source)
            continue
        features = source or extract(backbone, str(config.shards), [config.split], level="study")
        places = browser.places(sorted(set(features.splits)))
        rebuild = f"vetdino embed {config.backbones[number]} {config.shards}"
        found.append(gallery_from_table(features, backbone, places, folder / str(number), rebuild=rebuild))
    return backbones, found


def _bundle(path: Path) -> Path:
    """A gallery's path. Raises GalleryError for one by view, which the page does not show."""
    level = open_version(path, lambda _, manifest: manifest.level)
    if level != "study":
        raise GalleryError(
            f"this gallery is of level {level}, the app needs level study; build it from a table that "
            "`vetdino embed --level study` wrote"
        )
    return path


def mount_page(engine: ServiceEngine, port: int) -> FastAPI:
    """Our own routes first, then Gradio for everything else."""
    require_extra("gradio", "the app")
    # Read when gradio is first imported: no analytics.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    theme = gr.themes.Base(font=[gr.themes.LocalFont("IBM Plex Sans"), "system-ui", "sans-serif"])
    theme.set(body_background_fill=BACKGROUND, body_background_fill_dark=BACKGROUND)

    app = create_app(engine)
    app.mount("/room", room_files())

    async def mount() -> FastAPI:
        # Without a running loop, gradio makes several and never closes them.
        return gr.mount_gradio_app(
            app,
            page(),
            path="/",
            theme=theme,
            head=head(),
            footer_links=[],
            run_history=False,
            show_error=False,
            ssr_mode=False,
            server_name=HOST,
            server_port=port,
        )

    return asyncio.run(mount())


def head() -> str:
    """What the browser needs before Gradio has started: the styles, and the modules, fetched meanwhile."""
    modules = sorted(path.name for path in ROOM.glob("*.js"))
    preloads = "".join(f'<link rel="modulepreload" href="/room/{name}">' for name in modules)
    sheets = "".join(
        path.read_text(encoding="utf-8") for path in (HERE / "page.css", *sorted(ROOM.glob("*.css")))
    )
    return f"<style>{sheets}</style>{preloads}"


def room_files() -> Any:
    """The page's modules as an ASGI app; the browser asks each time whether they have changed."""
    from starlette.staticfiles import StaticFiles

    class RoomFiles(StaticFiles):
        def file_response(self, *given: Any, **more: Any) -> Any:
            response = super().file_response(*given, **more)
            response.headers["Cache-Control"] = "no-cache"
            return response

    return RoomFiles(directory=ROOM)


def page() -> Any:
    """The Gradio page: one HTML component, from page.html and page.js, which starts room/room.js."""
    import gradio as gr

    with gr.Blocks(title="vetdino", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(
            html_template=(HERE / "page.html").read_text(encoding="utf-8"),
            js_on_load=(HERE / "page.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            elem_id="vetdino",
        )
    return blocks
