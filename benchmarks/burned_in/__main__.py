"""`python -m benchmarks.burned_in`: names, dates and numbers are drawn onto radiographs and looked for."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from vetdino.platform.data.pictures import read_gray
from vetdino.platform.dicom.burned_in import ROUNDS, box_pixels, find_text, painted_over
from vetdino.platform.dicom.pixels import shrunk
from vetdino.platform.phantom.config import PhantomConfig
from vetdino.platform.phantom.dog.studies import generate_study

# H, W pixels of a picture.

FONTS = (
    "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSerif.ttf",
    "STIXGeneral.ttf", "STIXGeneralBol.ttf", "cmtt10.ttf", "hershey",
)  # fmt: skip
"""Of matplotlib's own; hershey is OpenCV's stroke font, as older consoles draw."""

FAMILY = (
    "Mueller",
    "Smith",
    "O'Neill",
    "Kowalska",
    "Garcia",
    "Nguyen",
    "Dubois",
    "Ivanova",
    "Yilmaz",
    "Bauer-Lang",
)
GIVEN = ("Anna", "Peter", "Bella", "Rex", "Maria", "John", "Luna", "Karl", "Sofia", "Max")

HEIGHTS = ((6, 8), (8, 11), (11, 16), (16, 28))
"""Heights of a capital letter in pixels of the stored picture of 512: bins of the table."""

TURNS = {0: "upright", 1: "turned left", 3: "turned right"}

LEFT_INK = 0.02
"""A text is painted over wholly where less than this fraction of its visible pixels stays."""

CONTRASTS = ((40, 80), (80, 140), (140, 256))
"""Differences between ink and the median below it, of 255: bins of the table."""


@dataclass(frozen=True, slots=True)
class Burned:
    """One text that was drawn, and what became of it. left_ink: share of its pixels that stay after painting over."""

    base: str
    kind: str
    font: str
    height: float
    contrast: int
    turn: int
    found: bool
    left_ink: float


def identifier(random: np.random.Generator) -> tuple[str, str]:
    """(kind, text) as consoles print them: a name, a date, a number, or a line of all three."""
    family, given = (str(random.choice(names)) for names in (FAMILY, GIVEN))
    day, month, year = random.integers(1, 29), random.integers(1, 13), random.integers(1930, 2024)
    date = str(
        random.choice(
            [f"{day:02}.{month:02}.{year}", f"{year}-{month:02}-{day:02}", f"{month:02}/{day:02}/{year}"]
        )
    )
    number = str(random.integers(10**5, 10**9))
    name = str(random.choice([f"{family}, {given}", f"{family}^{given}".upper(), f"{given} {family}"]))
    kind = str(random.choice(["name", "date", "number", "line"]))
    return kind, {"name": name, "date": date, "number": number, "line": f"{name} {date} ID {number}"}[kind]


def ink_of(text: str, font: str, height: float) -> np.ndarray:
    """A text's coverage, (h, w) float32 of 0 to 1, its capitals `height` pixels tall."""
    import cv2
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    if font == "hershey":
        scale = height / 21
        (wide, tall), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        canvas = np.zeros((tall + below + 4, wide + 4), np.uint8)
        place = (2, tall + 2)
        cv2.putText(
            canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, max(1, round(height / 12)), cv2.LINE_AA
        )
    else:
        path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / font
        _, high, _, low = ImageFont.truetype(str(path), size=100).getbbox("H")
        type_face = ImageFont.truetype(str(path), size=100 * height / (low - high))
        left, top, right, bottom = type_face.getbbox(text)
        picture = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
        ImageDraw.Draw(picture).text((2 - left, 2 - top), text, font=type_face, fill=255)
        canvas = np.asarray(picture)
    return canvas.astype(np.float32) / 255


def burn(
    pixels_HW: np.ndarray, ink_hw: np.ndarray, contrast: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """(the picture with ink somewhere in it, the ink alone), both (H, W); None where it does not fit.

    Four in five lie near an edge, as consoles print. Ink is brighter or darker than what lies below it by `contrast`.
    """
    (tall, wide), (height, width) = ink_hw.shape, pixels_HW.shape
    if tall > height or wide > width:
        return None
    top, left = (int(random.integers(0, room + 1)) for room in (height - tall, width - wide))
    if random.uniform() < 0.8:
        inset = int(random.integers(0, 13))
        edge = min(inset, height - tall, width - wide)
        if wide >= tall:
            top = edge if random.uniform() < 0.5 else height - tall - edge
        else:
            left = edge if random.uniform() < 0.5 else width - wide - edge
    below = float(np.median(pixels_HW[top : top + tall, left : left + wide]))
    ink = (
        below + contrast
        if below + contrast <= 255 and (below - contrast < 0 or random.uniform() < 0.7)
        else below - contrast
    )
    burned_HW, ink_HW = pixels_HW.astype(np.float32), np.zeros(pixels_HW.shape, np.float32)
    ink_HW[top : top + tall, left : left + wide] = ink_hw
    burned_HW += ink_HW * (np.clip(ink, 0, 255) - burned_HW)
    return np.rint(np.clip(burned_HW, 0, 255)).astype(np.uint8), ink_HW


def burned_case(base: str, pixels_HW: np.ndarray, random: np.random.Generator) -> Burned | None:
    """A text drawn onto a picture without any, looked for and painted over as `--dicom.burned_in mask` does."""
    kind, text = identifier(random)
    font = str(random.choice(FONTS))
    height = float(np.exp(random.uniform(np.log(6), np.log(28))))
    turn = int(random.choice([0, 0, 0, 1, 3]))
    height_here = height * max(pixels_HW.shape) / 512
    ink_hw = np.rot90(ink_of(text, font, height_here), turn)
    contrast = int(random.choice([random.integers(*bounds) for bounds in CONTRASTS]))
    burned = burn(pixels_HW, ink_hw, contrast, random)
    if burned is None:
        return None
    before_HW, ink_HW = burned
    boxes, painted_HW, is_found = find_text(before_HW), before_HW, False
    seen_HW = np.abs(before_HW.astype(int) - pixels_HW)
    is_ink_HW = (ink_HW > 0.5) & (seen_HW >= min(contrast, 40) // 2)
    ink = np.count_nonzero(is_ink_HW)
    for _ in range(ROUNDS):
        if not boxes:
            break
        is_found, painted_HW = True, painted_over(painted_HW, boxes)
        for box in boxes:
            is_ink_HW[box_pixels(box, is_ink_HW.shape)] = False
        boxes = find_text(painted_HW)
    left_ink = np.count_nonzero(is_ink_HW) / max(1, ink)
    return Burned(base, kind, font, height, contrast, turn, is_found, left_ink)


def generated_radiographs(count: int, seed: int) -> Iterator[np.ndarray]:
    """Pictures of generated dogs, whose lead marker is the only letter in them."""
    config, made, number = PhantomConfig(side=512, seed=seed), 0, 0
    while made < count:
        for view in generate_study(config, number).views:
            yield (view.pixels >> 4).astype(np.uint8)
            made += 1
            if made == count:
                return
        number += 1


def table_radiographs(folder: Path, count: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Some pictures of a folder with a metadata.csv that names each `file`."""
    files = pd.read_csv(folder / "metadata.csv", dtype=str)["file"].tolist()
    for row in sorted(random.permutation(len(files))[:count]):
        yield shrunk(read_gray(folder / files[row]), 512)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson, 1927)."""
    z, n = 1.96, max(trials, 1)
    share = successes / n
    middle, half = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return float((middle - half) / (1 + z * z / n)), float((middle + half) / (1 + z * z / n))


def measure(bases: Mapping[str, Iterator[np.ndarray]], texts: int, seed: int) -> dict:
    """Alarms on pictures as they are, then texts drawn onto those without an alarm, and the time of a search."""
    random = np.random.default_rng(seed)
    alarms, cases, times = {}, [], []
    for base, pictures in bases.items():
        count = alarmed = 0
        for pixels_HW in pictures:
            start = time.thread_time()
            boxes = find_text(pixels_HW)
            times.append(time.thread_time() - start)
            count, alarmed = count + 1, alarmed + bool(boxes)
            if not boxes:
                made = (burned_case(base, pixels_HW, random) for _ in range(texts))
                cases += [case for case in made if case is not None]
        alarms[base] = {"pictures": count, "alarms": alarmed, "interval": wilson(alarmed, count)}
    return {"alarms": alarms, "ms": float(np.median(times) * 1000), "cases": [asdict(case) for case in cases]}


def shares(cases: Sequence[Mapping]) -> str:
    """`share found, interval | share painted over wholly, interval | texts` of some cases."""
    if not cases:
        return "- | - | 0"
    parts = []
    for count in (sum(case["found"] for case in cases), sum(case["left_ink"] < LEFT_INK for case in cases)):
        low, high = wilson(count, len(cases))
        parts.append(f"{count / len(cases):.3f} ({low:.3f}-{high:.3f})")
    return f"{' | '.join(parts)} | {len(cases)}"


def table(result: Mapping) -> str:
    """The result as Markdown tables."""
    lines = ["| pictures as they are | alarms | share, 95 % interval |", "| --- | --- | --- |"]
    for base, row in result["alarms"].items():
        share = row["alarms"] / max(1, row["pictures"])
        low, high = row["interval"]
        lines.append(
            f"| {base} | {row['alarms']} of {row['pictures']} | {share:.3f} ({low:.3f}-{high:.3f}) |"
        )
    lines += ["", "| text | found | painted over | texts |", "| --- | --- | --- | --- |"]
    cases = result["cases"]
    rows = {"all": cases}
    for name in ("base", "kind", "font", "turn"):
        for value in dict.fromkeys(case[name] for case in cases):
            words = TURNS[value] if name == "turn" else value
            rows[f"{name}: {words}"] = [case for case in cases if case[name] == value]
    for name, bins in (("height", HEIGHTS), ("contrast", CONTRASTS)):
        for low, high in bins:
            rows[f"{name}: {low} to {high}"] = [case for case in cases if low <= case[name] < high]
    rows["height over 8, contrast over 80"] = [
        case for case in cases if case["height"] >= 8 and case["contrast"] >= 80
    ]
    lines += [f"| {name} | {shares(chosen)} |" for name, chosen in rows.items()]
    return "\n".join([*lines, "", f"{result['ms']:.0f} ms a picture, one thread"])


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.burned_in", description=__doc__)
    parser.add_argument("--pictures", type=int, default=200, help="pictures of each kind")
    parser.add_argument("--texts", type=int, default=2, help="texts drawn onto each picture, one at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--tables", type=Path, nargs="*", default=[], help="folders with metadata.csv and pictures"
    )
    parser.add_argument("--out", type=Path, help="JSON with every case")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    import cv2

    cv2.setNumThreads(1)
    args = parse_args(argv)
    random = np.random.default_rng(args.seed)
    bases = {"generated": generated_radiographs(args.pictures, args.seed)}
    bases |= {folder.name: table_radiographs(folder, args.pictures, random) for folder in args.tables}
    result = measure(bases, args.texts, args.seed)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
