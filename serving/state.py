"""Everything the app's routes need, without HTTP: backbones, galleries, studies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..platform.core.errors import ConfigError
from ..platform.data.study import SPLITS
from ..platform.measure.features import load_features
from .attention import MEAN_COLOR, attention_maps, head_colors, mean_attention_map, overlay
from .config import RANDOM, AppConfig
from .encoder import EncodedView, ViewEncoder, check_side
from .gallery.bundle import is_bundle
from .gallery.gallery import Gallery
from .images import jpeg, shrunk
from .similar import SimilarStudies, build_similar
from .similarity import cosine_matrix, quantized
from .studies import NotHereError, Place, StudyBrowser, findings_in_words, study_name, view_pixels

if TYPE_CHECKING:
    from ..platform.models.backbone import Backbone


class AppState:
    """The answers of all routes as plain data and bytes.

    Loads backbones and features; embeds the split, with progress, where features are not given. Raises ConfigError,
    ShardError, CheckpointError, FeaturesError or GalleryError.
    """

    def __init__(self, config: AppConfig) -> None:
        self.config = config
        self.studies = StudyBrowser(str(config.shards), config.split, config.limit)
        backbones = load_backbones(config)
        self.given = [path if is_bundle(path) else load_features(path) for path in map(Path, config.features)]
        for backbone in backbones:  # before any of them embeds a split
            check_side(config.side or backbone.side, backbone)
        self.encoders = [
            ViewEncoder(backbone, self._similar(backbone, number), self.studies, config.side)
            for number, backbone in enumerate(backbones)
        ]

    def _similar(self, backbone: Backbone, number: int) -> SimilarStudies:
        from ..platform.measure.extraction import extract

        config = self.config
        given = self.given[number] if number < len(self.given) else None
        if isinstance(given, Path):
            return SimilarStudies(Gallery.open(given, backbone), self.studies.places(SPLITS))
        features = (
            extract(backbone, str(config.shards), [config.split], level="study") if given is None else given
        )
        rebuild = f"vetdino embed {config.backbones[number]} {config.shards}"
        places = self.studies.places(sorted(set(features.splits)))
        return build_similar(features, backbone, places, rebuild=rebuild)

    def encoder(self, number: int) -> ViewEncoder:
        """The number-th backbone. Raises NotHereError."""
        if not 0 <= number < len(self.encoders):
            raise NotHereError(f"There is no backbone {number} here; choose 0 to {len(self.encoders) - 1}.")
        return self.encoders[number]

    def info(self) -> dict[str, Any]:
        """The studies and backbones to choose from."""
        return {
            "archive": self.studies.manifest.name,
            "split": self.config.split,
            "matches": self.config.matches,
            "studies": [study_name((self.config.split, n)) for n in range(self.studies.count)],
            "backbones": [encoder.description for encoder in self.encoders],
        }

    def study(self, place: Place) -> dict[str, Any]:
        """One study: its views and findings, and the first digits of its pseudonym."""
        study = self.studies.load(place)
        return {
            "study": study_name(place),
            "key": study.key[:8],
            "findings": findings_in_words(study.labels),
            "views": [
                {"projection": view.projection, "laterality": view.laterality, "modality": view.modality}
                for view in study.views
            ],
        }

    def picture(self, place: Place, view: int, side: int) -> bytes:
        """A view as JPEG, its longer side at most `side` pixels."""
        return jpeg(shrunk(view_pixels(self.studies.load(place), view), side))

    def similarity(self, number: int, views: list[tuple[Place, int]]) -> tuple[bytes, dict[str, Any]]:
        """Cosines between all patches of these views as uint8 rows, and a header to read them with."""
        encoder = self.encoder(number)
        encoded = [encoder.encode(*view) for view in views]
        tokens = np.concatenate([view.tokens for view in encoded])
        matrix, low, high = quantized(cosine_matrix(tokens, tokens))
        return matrix.tobytes(), {"low": low, "high": high, "views": [_grid_header(view) for view in encoded]}

    def attention(self, number: int, place: Place, view: int, head: str, side: int) -> bytes:
        """One view under the attention of a head (`0`, `1`, …), of `all` in colors, or of their `mean`, as JPEG."""
        encoded = self.encoder(number).encode(place, view)
        pixels = view_pixels(self.studies.load(place), view)
        heads = len(encoded.attention)
        colors = head_colors(heads)
        if head == "mean":
            picture = overlay(pixels, mean_attention_map(encoded.attention, encoded.grid)[None], [MEAN_COLOR])
        elif head == "all":
            picture = overlay(pixels, attention_maps(encoded.attention, encoded.grid), colors)
        elif head.isdecimal() and int(head) < heads:
            maps = attention_maps(encoded.attention[int(head)][None], encoded.grid)
            picture = overlay(pixels, maps, [colors[int(head)]])
        else:
            raise NotHereError(f"There is no head {head} here; choose mean, all, or 0 to {heads - 1}.")
        return jpeg(shrunk(picture, side))

    def neighbors(self, number: int, place: Place) -> list[dict[str, Any]]:
        """The most similar studies of other patients, best first."""
        matches = self.encoder(number).similar.of(place, self.config.matches)
        return [self.study(match.place) | {"score": round(match.score, 4)} for match in matches]


def _grid_header(view: EncodedView) -> dict[str, Any]:
    grid = view.grid
    return {
        "height": grid.height,
        "width": grid.width,
        "side": grid.side,
        "patch": grid.patch,
        "letterbox": grid.letterbox,
        "boxes": grid.boxes().tolist(),
        "inside": grid.inside().tolist(),
    }


def load_backbones(config: AppConfig) -> list[Backbone]:
    """The backbones of the app, in the order given. Raises ConfigError or CheckpointError."""
    from ..platform.models.backbone import random_like
    from ..platform.models.loading import load

    if not config.backbones or str(config.backbones[0]) == RANDOM:
        raise ConfigError("the app needs a backbone folder first; `random` may follow it")
    if len(config.features) > len(config.backbones):
        raise ConfigError(
            f"{len(config.features)} feature tables for {len(config.backbones)} backbones; "
            "give the i-th table for the i-th backbone"
        )
    first = load(config.backbones[0], config.device)
    others = config.backbones[1:]
    return [
        first,
        *(random_like(first) if str(name) == RANDOM else load(name, config.device) for name in others),
    ]
