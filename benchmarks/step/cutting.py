"""Cutting the crops of one study on one processor, without decoding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vetdino.platform.data.study import Study, View
from vetdino.pretrain.batches.config import CropConfig
from vetdino.pretrain.batches.crops import study_crops

from .settings import Setting

VIEW = (512, 432)
"""Height and width of a radiograph in a shard, in pixels."""


def crop_cutters(setting: Setting) -> dict[str, Callable[[], object]]:
    """Contestant -> function that cuts the crops of one study: two radiographs, half of the crops from each."""
    from lightly.transforms import DINOTransform
    from PIL import Image

    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, VIEW, np.uint8) for _ in range(2)]
    study = Study("study", "patient", tuple(map(View, pictures, ("VD", "LLAT"))), {}, "train")
    config = CropConfig(
        global_side=setting.global_side,
        local_side=setting.local_side,
        globals_per_view=setting.globals_ // 2,
        locals_per_view=setting.locals_ // 2,
    )
    # lightly cuts two global crops of each image it is given.
    images = [Image.fromarray(picture).convert("RGB") for picture in pictures[: setting.globals_ // 2]]
    transform = DINOTransform(
        global_crop_size=setting.global_side,
        global_crop_scale=config.global_area,
        local_crop_size=setting.local_side,
        local_crop_scale=config.local_area,
        n_local_views=setting.locals_ // len(images),
    )
    return {
        "vetdino": lambda: study_crops(study, config, seed=0, epoch=0),
        "lightly": lambda: [transform(image) for image in images],
    }
