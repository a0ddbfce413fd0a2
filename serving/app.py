"""The page: two views of a study, what is alike in them, where a backbone looks, which studies resemble it.

Everything is answered by routes of our own under /v1; Gradio holds the page. Nothing is taken in: the app
refuses every request that is not a plain read, so there is no upload and no path to a file of this machine.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..platform.core.errors import ConfigError, DataError, VetdinoError
from ..platform.data.shards import StudyIndex, load_manifest
from ..platform.data.study import SPLITS, Study
from .config import HOST, RANDOM, AppConfig

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..platform.models.backbone import Backbone
    from .gallery import Gallery, Place
    from .similarity import PatchGrid

PAGE = Path(__file__).parent

NIGHT = "#0a0c0f"
"""Behind the page while it loads; the same as in page.css."""

GUARD = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""Content-Security-Policy: the browser itself refuses to fetch anything from elsewhere."""


class NotHereError(DataError):
    """Somebody asked for a study, a view or a backbone that is not on this page."""


class Archive:
    """The studies on the page, by place. Safe to ask from several threads."""

    def __init__(self, shards: Path, split: str, limit: int | None) -> None:
        self.manifest = load_manifest(shards)
        self.shards, self.split = shards, split
        self._lock = threading.Lock()
        self._index = lru_cache(maxsize=None)(lambda name: StudyIndex(shards, name))
        self.count = len(self._index(split).keys()[:limit])
        if not self.count:
            held = ", ".join(f"{name} {self.manifest.studies(name)}" for name in SPLITS)
            raise ConfigError(
                f"{shards}: split {split} holds no studies (there are {held}); choose another with --split"
            )
        self.load = lru_cache(maxsize=64)(self._load)

    def places(self, split: str) -> dict[str, Place]:
        """Key -> place of the studies of a split; of the split to choose from, those offered."""
        with self._lock:
            keys = self._index(split).keys()
        offered = keys[: self.count] if split == self.split else keys
        return {key: (split, position) for position, key in enumerate(offered)}

    def _load(self, place: Place) -> Study:
        split, position = place
        with self._lock:
            if split not in SPLITS or not 0 <= position < len(self._index(split)):
                raise NotHereError(
                    f"There is no study {name_of(place)} here; choose one of the {self.count} in the list."
                )
            return self._index(split).load(position)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a backbone makes of one view: tokens (N, D) and CLS attention (H, N), float32, and its grid."""

    tokens: np.ndarray
    attention: np.ndarray
    grid: PatchGrid


class Reader:
    """One backbone with its gallery. It looks at one view at a time, whoever asks."""

    def __init__(self, backbone: Backbone, gallery: Gallery, archive: Archive, side: int | None) -> None:
        self.backbone, self.gallery, self.archive = backbone, gallery, archive
        self.side = side or backbone.side
        if self.side % backbone.patch:
            raise ConfigError(
                f"side {self.side} is no multiple of the patch, {backbone.patch}, of {backbone.card.label}"
            )
        self._lock = threading.Lock()
        self.see = lru_cache(maxsize=128)(self._see)

    def _see(self, place: Place, view: int) -> Seen:
        from .similarity import PatchGrid

        pixels = pixels_of(self.archive.load(place), view)
        with self._lock:
            image = self.backbone.prepare(pixels, self.side)[None]
            tokens = self.backbone.tokens(image).patches[0]
            attention = self.backbone.attention(image)[0]
        grid = PatchGrid(*pixels.shape, side=self.side, patch=self.backbone.patch)
        return Seen(tokens.float().cpu().numpy(), attention.float().cpu().numpy(), grid)

    @cached_property
    def told(self) -> dict[str, Any]:
        """What the page says of this backbone."""
        backbone, card = self.backbone, self.backbone.card
        blocks = self.backbone.vit.blocks
        return {
            "label": card.label,
            "digest": card.digest[:12],
            "summary": f"{len(blocks)} blocks of width {backbone.width}, patches of {backbone.patch} pixels, "
            f"image side {self.side}",
            "heads": blocks[-1].attn.num_heads,
        }


class Room:
    """Everything the routes ask for, without a word of HTTP."""

    def __init__(self, config: AppConfig) -> None:
        """Loads backbones and features; embeds the split where features are missing, with progress.

        Raises ConfigError, ShardError, CheckpointError, FeaturesError or GalleryError.
        """
        self.config = config
        backbones = backbones_of(config)
        self.archive = Archive(config.shards, config.split, config.limit)
        self.readers = [
            Reader(backbone, self._gallery(backbone, number), self.archive, config.side)
            for number, backbone in enumerate(backbones)
        ]

    def _gallery(self, backbone: Backbone, number: int) -> Gallery:
        from ..platform.measure.features import extract, load_features
        from .gallery import gallery_of

        config = self.config
        if number < len(config.features):
            features = load_features(config.features[number])
        else:
            features = extract(backbone, config.shards, [config.split], level="study")
        places = {}
        for split in sorted(set(features.splits)):
            places |= self.archive.places(split)
        rebuild = f"vetdino embed {config.backbones[number]} {config.shards}"
        return gallery_of(features, backbone.card.digest, places, rebuild=rebuild)

    def reader(self, number: int) -> Reader:
        """The number-th backbone. Raises NotHereError."""
        if not 0 <= number < len(self.readers):
            raise NotHereError(f"There is no backbone {number} here; choose 0 to {len(self.readers) - 1}.")
        return self.readers[number]

    def info(self) -> dict[str, Any]:
        """What there is to choose from."""
        return {
            "archive": self.archive.manifest.name,
            "split": self.config.split,
            "matches": self.config.matches,
            "studies": [name_of((self.config.split, n)) for n in range(self.archive.count)],
            "backbones": [reader.told for reader in self.readers],
        }

    def study(self, place: Place) -> dict[str, Any]:
        """One study: its views and findings, under the first digits of its pseudonym."""
        study = self.archive.load(place)
        return {
            "study": name_of(place),
            "key": study.key[:8],
            "findings": findings_of(study.labels),
            "views": [
                {"projection": view.projection, "laterality": view.laterality, "modality": view.modality}
                for view in study.views
            ],
        }

    def picture(self, place: Place, view: int, side: int) -> bytes:
        """A view as JPEG, its longer side at most `side` pixels."""
        return jpeg(shrunk(pixels_of(self.archive.load(place), view), side))

    def similarity(self, number: int, views: list[tuple[Place, int]]) -> tuple[bytes, dict[str, Any]]:
        """Cosines of all patches of these views with one another as uint8 rows, and how to read them."""
        from .similarity import as_bytes, cosine_matrix

        seen = [self.reader(number).see(*view) for view in views]
        tokens = np.concatenate([one.tokens for one in seen])
        matrix, low, high = as_bytes(cosine_matrix(tokens, tokens))
        return matrix.tobytes(), {
            "low": low,
            "high": high,
            "views": [
                {
                    "height": one.grid.height,
                    "width": one.grid.width,
                    "side": one.grid.side,
                    "patch": one.grid.patch,
                    "letterbox": one.grid.letterbox,
                    "boxes": one.grid.boxes().tolist(),
                    "inside": one.grid.inside().tolist(),
                }
                for one in seen
            ],
        }

    def attention(self, number: int, place: Place, view: int, head: str, side: int) -> bytes:
        """One view under the attention of a head (`0`, `1`, …), of `all` in colours, or of their `mean`."""
        from .attention import MEAN_COLOUR, colours_of, maps_of, mean_map, overlay

        seen = self.reader(number).see(place, view)
        pixels = pixels_of(self.archive.load(place), view)
        heads = len(seen.attention)
        colours = colours_of(heads)
        if head == "mean":
            picture = overlay(pixels, mean_map(seen.attention, seen.grid)[None], [MEAN_COLOUR])
        elif head == "all":
            picture = overlay(pixels, maps_of(seen.attention, seen.grid), colours)
        elif head.isdecimal() and int(head) < heads:
            chosen = int(head)
            maps = maps_of(seen.attention[chosen : chosen + 1], seen.grid)
            picture = overlay(pixels, maps, [colours[chosen]])
        else:
            raise NotHereError(f"There is no head {head} here; choose mean, all, or 0 to {heads - 1}.")
        return jpeg(shrunk(picture, side))

    def neighbours(self, number: int, place: Place) -> list[dict[str, Any]]:
        """The nearest studies of other patients."""
        matches = self.reader(number).gallery.matches_of(place, self.config.matches)
        return [self.study(match.place) | {"score": round(match.score, 4)} for match in matches]


def backbones_of(config: AppConfig) -> list[Backbone]:
    """The backbones to switch between, in the order given. Raises ConfigError or CheckpointError."""
    from ..platform.models.backbone import load, random_like

    if not config.backbones or str(config.backbones[0]) == RANDOM:
        raise ConfigError("the page needs a backbone folder first; `random` may follow it")
    if len(config.features) > len(config.backbones):
        raise ConfigError(
            f"{len(config.features)} feature tables for {len(config.backbones)} backbones; "
            "give the i-th table for the i-th backbone"
        )
    first = load(config.backbones[0])
    others = config.backbones[1:]
    return [first, *(random_like(first) if str(name) == RANDOM else load(name) for name in others)]


def name_of(place: Place) -> str:
    """A study's name on the page and in addresses: `test-12`."""
    return f"{place[0]}-{place[1]}"


def place_of(name: str) -> Place:
    """The place behind a name. Raises NotHereError."""
    split, _, position = name.rpartition("-")
    if split not in SPLITS or not position.isdecimal():
        raise NotHereError(f"{name[:40]!r} names no study; a study is called like `test-12`.")
    return split, int(position)


def view_of(name: str) -> tuple[Place, int]:
    """The place and view number behind `test-12/0`. Raises NotHereError."""
    study, _, view = name.partition("/")
    if not view.isdecimal():
        raise NotHereError(f"{name[:40]!r} names no view; a study's first is called like `test-12/0`.")
    return place_of(study), int(view)


def pixels_of(study: Study, view: int) -> np.ndarray:
    """One view, (H, W) uint8. Raises NotHereError where the study has fewer views."""
    if not 0 <= view < len(study.views):
        raise NotHereError(f"This study has views 0 to {len(study.views) - 1}; there is no view {view}.")
    try:
        return study.view(view).pixels
    except (ValueError, OSError):
        raise DataError(f"View {view} of this study is damaged and cannot be shown.") from None


def findings_of(labels: Mapping[str, float]) -> dict[str, list[str]]:
    """Findings in words, sorted by what is known of them.

    >>> findings_of({"enlarged_heart": 1.0, "lung_mass": 0.0, "fracture": float("nan")})
    {'present': ['enlarged heart'], 'absent': ['lung mass'], 'unknown': ['fracture']}
    """
    words = {name: name.replace("_", " ") for name in labels}
    return {
        "present": [words[name] for name, value in labels.items() if value > 0.5],
        "absent": [words[name] for name, value in labels.items() if value <= 0.5],
        "unknown": [words[name] for name, value in labels.items() if math.isnan(value)],
    }


def shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture with its longer side at most `side` pixels."""
    import cv2

    scale = side / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def jpeg(picture: np.ndarray) -> bytes:
    """Grey (H, W) or RGB (H, W, 3), uint8, as JPEG."""
    import cv2

    ordered = picture if picture.ndim == 2 else picture[..., ::-1]
    _, encoded = cv2.imencode(".jpg", ordered, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return encoded.tobytes()


def routes_of(room: Room) -> FastAPI:
    """The answers under /v1: JSON, pictures and one matrix."""
    from fastapi import FastAPI
    from fastapi.responses import Response

    app = FastAPI(title="vetdino", openapi_url=None)
    # Never kept: the next archive on this port has the same addresses.
    picture = {"media_type": "image/jpeg", "headers": {"Cache-Control": "no-store"}}

    @app.get("/v1/info")
    def info() -> dict[str, Any]:
        return room.info()

    @app.get("/v1/studies/{name}")
    def study(name: str) -> dict[str, Any]:
        return room.study(place_of(name))

    @app.get("/v1/studies/{name}/neighbours")
    def neighbours(name: str, backbone: int = 0) -> list[dict[str, Any]]:
        return room.neighbours(backbone, place_of(name))

    @app.get("/v1/studies/{name}/{view}.jpg")
    def view(name: str, view: int, side: int = 1024) -> Response:
        return Response(room.picture(place_of(name), view, _sane(side)), **picture)

    @app.get("/v1/studies/{name}/{view}/attention/{head}.jpg")
    def attention(name: str, view: int, head: str, backbone: int = 0, side: int = 384) -> Response:
        return Response(room.attention(backbone, place_of(name), view, head, _sane(side)), **picture)

    @app.get("/v1/similarity")
    def similarity(a: str, b: str, backbone: int = 0) -> Response:
        matrix, told = room.similarity(backbone, [view_of(a), view_of(b)])
        head = json.dumps(told, separators=(",", ":")).encode()
        return Response(
            len(head).to_bytes(4, "little") + head + matrix, media_type="application/octet-stream"
        )

    _guard(app)
    return app


def _guard(app: FastAPI) -> None:
    """Refusals in one sentence, nothing but reads, and a browser that fetches nothing from elsewhere."""
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import Response
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    @app.exception_handler(VetdinoError)
    def refused(_: Any, error: VetdinoError) -> Response:
        return _refusal(404 if isinstance(error, NotHereError) else 422, str(error), type(error).__name__)

    @app.exception_handler(RequestValidationError)
    def malformed(_: Any, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _refusal(422, f"{first['loc'][-1]}: {first['msg']}", "RequestError")

    @app.exception_handler(Exception)
    def broken(_: Any, error: Exception) -> Response:
        return _refusal(500, "This went wrong on our side; the terminal of the page says how.", "Fault")

    @app.middleware("http")
    async def only_reads(request: Any, answer: Callable) -> Response:
        if request.method not in ("GET", "HEAD"):
            return _refusal(405, "This page only shows; it takes nothing in.", "RequestError")
        response = await answer(request)
        response.headers["Content-Security-Policy"] = GUARD
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])


def _sane(side: int) -> int:
    return min(max(side, 16), 2048)


def _refusal(status: int, message: str, kind: str) -> Any:
    from fastapi.responses import JSONResponse

    return JSONResponse({"error": message, "error_type": kind}, status_code=status)


def page() -> Any:
    """The Gradio page: one component that fills it, written in page.html, page.css and page.js."""
    import gradio as gr

    with gr.Blocks(title="vetdino", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(
            html_template=(PAGE / "page.html").read_text(encoding="utf-8"),
            js_on_load=(PAGE / "page.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            elem_id="vetdino",
        )
    return blocks


def build(config: AppConfig) -> FastAPI:
    """The whole app, ready to be served. Loads what the page needs; raises what `Room` raises."""
    return mounted(Room(config))


def mounted(room: Room) -> FastAPI:
    """Routes of our own first, then Gradio for everything else."""
    # Read when gradio is first imported: no call home, no shared temporary folder.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    theme = gr.themes.Base(font=[gr.themes.LocalFont("IBM Plex Sans"), "system-ui", "sans-serif"])
    theme.set(body_background_fill=NIGHT, body_background_fill_dark=NIGHT)

    async def mount() -> FastAPI:
        # Where gradio finds no running loop, it makes several and never closes them.
        return gr.mount_gradio_app(
            routes_of(room),
            page(),
            path="/",
            theme=theme,
            head=f"<style>{(PAGE / 'page.css').read_text(encoding='utf-8')}</style>",
            footer_links=[],
            run_history=False,
            show_error=False,
            ssr_mode=False,
            server_name=HOST,
            server_port=room.config.port,
        )

    return asyncio.run(mount())


def serve(config: AppConfig) -> None:
    """Show the page on 127.0.0.1 until Ctrl-C.

    Raises ConfigError where the port is in use, before anything is loaded; else what `Room` raises.
    """
    import uvicorn

    with _bound(config.port) as door:
        app = build(config)
        print(f"The reading room is open at http://{HOST}:{config.port} (Ctrl-C closes it)", flush=True)
        settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        try:
            uvicorn.Server(settings).run(sockets=[door])
        except KeyboardInterrupt:
            print("The reading room is closed.", flush=True)


def _bound(port: int) -> socket.socket:
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((HOST, port))
    except (OSError, OverflowError) as error:
        door.close()
        raise ConfigError(
            f"port {port} of {HOST} cannot be used ({getattr(error, 'strerror', None) or error}); "
            f"choose another with --port, or stop what listens there"
        ) from None
    return door
