"""`report.html` beside the shards: what an ingest wrote and refused, what its pictures look like, and what is doubtful.

Made from the finished folder alone, so the same folder gives the same bytes. Pseudonyms and no paths are on the page.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from html import escape
from pathlib import Path
from typing import Any

from ...platform.core.files import atomic_write
from ...platform.data.manifest import Manifest, load_manifest
from ...platform.data.records import study_records
from ...platform.data.study import PROJECTIONS, SPLITS, StoredView
from ...platform.dicom.header import CODES
from ...platform.ingest.assembly import QUARANTINE
from ...platform.ingest.output.listings import NEAR_DUPLICATES, TEXT
from .html import Cell, heading, html_document, paragraph, picture, table

REPORT = "report.html"

EXAMPLES = 6
"""Pictures of each projection."""

PAIRS = 6
"""Pairs of near-duplicates that are shown, and pictures whose text was painted over."""

ROWS = 40
"""Rows of near-duplicates that are listed; the CSV has all."""

THUMBNAIL = 176
"""Long side of a picture on the page, in pixels."""

ViewId = tuple[str, int]
"""A study's pseudonym and the number of a view."""


@dataclass
class IngestFacts:
    """What the page says, collected in one pass over the shards' JSON."""

    manifest: Manifest
    near: list[dict[str, str]] = field(default_factory=list)
    text: list[dict[str, str]] = field(default_factory=list)
    clashes: Counter[str] = field(default_factory=Counter)
    views: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(modality, projection, split) -> views."""
    sources: Counter[str] = field(default_factory=Counter)
    grays: Counter[str] = field(default_factory=Counter)
    doubts: Counter[str] = field(default_factory=Counter)
    crops: Counter[str] = field(default_factory=Counter)
    searched: int = 0
    pictures: dict[ViewId, bytes] = field(default_factory=dict)
    """Thumbnails, PNG."""
    examples: dict[str, list[ViewId]] = field(default_factory=dict)
    """Projection -> views that are shown."""

    def notes(self) -> list[str]:
        """Lines for the terminal: near-duplicates, and whether pixels were searched for text."""
        total, lines = self.manifest.counts["views"], []
        if self.near:
            others = sum(row["relation"] == "other patient" for row in self.near)
            lines.append(
                f"{_count(len(self.near), 'pair')} of near-duplicates, {others} of two patients: {NEAR_DUPLICATES}"
            )
        if not self.searched and not self.manifest.counts.get("refused.BURNED_IN"):
            return [*lines, "no pixels were searched for burned-in text"]
        found = len({(row["study"], row["view"]) for row in self.text if row["top"]})
        named = f", found in {found}: {TEXT}" if found else ", none found in these"
        return [*lines, f"searched the pixels of {self.searched} of {total} views for burned-in text{named}"]


def write_ingest_report(folder: Path) -> IngestFacts:
    """Writes report.html into a folder that `ingest` finished; what it says. Raises ShardError."""
    facts = read_ingest_facts(folder)
    atomic_write(folder / REPORT, html_document(f"Ingest: {facts.manifest.name}", _sections(facts)))
    return facts


def read_ingest_facts(folder: Path) -> IngestFacts:
    """What the page says of a folder of shards. Raises ShardError."""
    facts = IngestFacts(load_manifest(folder))
    facts.near = list(_rows(folder / NEAR_DUPLICATES))
    facts.text = list(_rows(folder / TEXT))
    refused = _rows(folder / QUARANTINE)
    facts.clashes.update(row["detail"] for row in refused if row["code"] == "PATIENT_CLASH")
    wanted = set(_wanted(facts))
    best: dict[str, list[tuple[str, ViewId, bytes]]] = {}

    def choose(record: Mapping[str, Any]) -> list[str]:
        return [view["file"] for number, view in enumerate(record["views"]) if chosen(record, number, view)]

    def chosen(record: Mapping[str, Any], number: int, view: Mapping[str, Any]) -> bool:
        text = view["facts"].get("text", "none")
        if text.startswith("kept") or text == "none; tagged":  # a name may be legible on the page
            return False
        shown = best.setdefault(view["projection"], [])
        is_example = len(shown) < EXAMPLES or _draw(record["key"], number) < shown[-1][0]
        return is_example or (record["key"], number) in wanted

    for record, files in study_records(folder, facts.manifest, choose):
        for number, view in enumerate(record["views"]):
            _count_view(facts, record, view)
            if (encoded := files.get(view["file"])) is None:
                continue
            view_id = (record["key"], number)
            shown = best[view["projection"]]
            best[view["projection"]] = nsmallest(EXAMPLES, [*shown, (_draw(*view_id), view_id, encoded)])
            if view_id in wanted:
                facts.pictures[view_id] = _thumbnail(encoded)
    for projection in PROJECTIONS:
        facts.examples[projection] = [view_id for _, view_id, _ in best.get(projection, [])]
        facts.pictures |= {view_id: _thumbnail(encoded) for _, view_id, encoded in best.get(projection, [])}
    return facts


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if path.exists():  # shards from before it have none
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            yield from csv.DictReader(file)


def _wanted(facts: IngestFacts) -> Iterator[ViewId]:
    """Views that are shown because something is said of them."""
    for row in _shown_pairs(facts):
        yield row["study"], int(row["view"])
        yield row["other_study"], int(row["other_view"])
    yield from _shown_texts(facts)


def _shown_pairs(facts: IngestFacts) -> list[dict[str, str]]:
    """Pairs of two patients first."""
    order = {"other patient": 0, "other study": 1, "same study": 2}
    return sorted(facts.near, key=lambda row: (order[row["relation"]], int(row["distance"])))[:PAIRS]


def _shown_texts(facts: IngestFacts) -> list[ViewId]:
    masked = (row for row in facts.text if row["action"] == "masked")
    return list(dict.fromkeys((row["study"], int(row["view"])) for row in masked))[:PAIRS]


def _draw(key: str, number: int) -> str:
    """Which views are examples: those with the smallest hashes, whatever their order."""
    return hashlib.sha256(f"{key} {number}".encode()).hexdigest()


def _count_view(facts: IngestFacts, record: Mapping[str, Any], view: Mapping[str, Any]) -> None:
    view_facts = view["facts"]
    facts.views[view["modality"] or "picture", view["projection"], record["split"]] += 1
    facts.sources[view_facts.get("projection_source", "none")] += 1
    facts.grays[view_facts.get("voi", "none")] += 1
    facts.doubts.update(filter(None, view_facts.get("doubts", "").split("; ")))
    if "crop" in view_facts:
        facts.crops[view_facts["crop"].split()[0]] += 1
    facts.searched += "text" in view_facts


def _thumbnail(encoded: bytes) -> bytes:
    import cv2

    from ...platform.dicom.pixels import shrunk

    done, png = cv2.imencode(".png", shrunk(StoredView(encoded).decode().pixels, THUMBNAIL))
    assert done, "cv2 encodes every 8-bit picture of one channel"
    return png.tobytes()


def _sections(facts: IngestFacts) -> list[str]:
    counts = facts.manifest.counts
    numbers = {
        "files read": counts["files"],
        "views written": counts["views"],
        "studies": counts["studies"],
        "patients": counts["patients"],
        "refused": counts["refused"],
        "duplicates left out": counts["duplicates"],
        "near-duplicates": len(facts.near),
        "views with text": len({(row["study"], row["view"]) for row in facts.text}),
    }
    tiles = "".join(f"<div><b>{number:,}</b>{escape(name)}</div>" for name, number in numbers.items())
    return [
        heading(f"Ingest: {facts.manifest.name}", 1),
        f'<div class="tiles">{tiles}</div>',
        *_files(counts),
        *_views(facts),
        *_examples(facts),
        *_duplicates(facts),
        *_clashes(facts),
        *_text(facts),
        *_made(facts),
    ]


def _files(counts: Mapping[str, int]) -> Iterator[str]:
    yield heading("Files")
    rows = {"views written": ("", counts["views"]), "DUPLICATE": (CODES["DUPLICATE"], counts["duplicates"])}
    for name, count in counts.items():
        if name.startswith("refused."):
            code = name.partition(".")[2]
            rows[code] = (CODES.get(code, ""), count)
    ordered = dict(sorted(rows.items(), key=lambda row: (row[0] != "views written", -row[1][1], row[0])))
    yield _bars(("outcome", "what it means"), {(name, words): n for name, (words, n) in ordered.items() if n})
    yield paragraph(
        "`quarantine.csv` names every file that gave no view, with its path; only its owner can read it.",
        "muted",
    )


def _views(facts: IngestFacts) -> Iterator[str]:
    yield heading("Views")
    modalities = sorted({modality for modality, _, _ in facts.views})
    by_pair: Counter[tuple[str, ...]] = Counter()
    for (modality, projection, _), count in facts.views.items():
        by_pair[modality, projection] += count
    order = {name: place for place, name in enumerate(PROJECTIONS)}
    pairs = sorted(by_pair, key=lambda pair: (modalities.index(pair[0]), order[pair[1]]))
    yield _bars(("modality", "projection"), {pair: by_pair[pair] for pair in pairs})
    split_views = Counter[str]()
    for (_, _, split), count in facts.views.items():
        split_views[split] += count
    rows: list[Sequence[str | Cell]] = [
        [split, Cell(f"{facts.manifest.studies(split):,}"), Cell(f"{split_views[split]:,}")]
        for split in SPLITS
    ]
    yield table(("split", "studies", "views"), rows)


def _examples(facts: IngestFacts) -> Iterator[str]:
    yield heading("Examples")
    if facts.searched < facts.manifest.counts["views"]:
        yield paragraph("Not all pixels were searched for text: a name may be legible on this page.", "note")
    for projection, view_ids in facts.examples.items():
        if view_ids:
            yield heading(projection, 3)
            yield _pictures(facts, [(view_id, _name(view_id)) for view_id in view_ids])


def _duplicates(facts: IngestFacts) -> Iterator[str]:
    yield heading("Duplicates")
    yield paragraph(
        f"{_count(facts.manifest.counts['duplicates'], 'file')} with the bytes or the pixels of another are left out. "
        "Pictures that are nearly the same are kept; decide whether they are copies."
    )
    if not facts.near:
        yield paragraph("No near-duplicates.")
        return
    relations = Counter((row["relation"],) for row in facts.near)
    yield _bars(("near-duplicates of",), dict(sorted(relations.items())))
    pairs = []
    for row in _shown_pairs(facts):
        ids = (row["study"], int(row["view"])), (row["other_study"], int(row["other_view"]))
        words = f"{row['relation'].capitalize()}, {row['distance']} of 256 bits differ"
        pairs.append(
            f"<div>{heading(words, 3)}{_pictures(facts, [(view_id, _name(view_id)) for view_id in ids])}</div>"
        )
    yield f'<div class="pairs">{"".join(pairs)}</div>'
    head = ("study", "view", "other study", "view", "relation", "bits that differ")
    yield table(head, [list(row.values()) for row in facts.near[:ROWS]])
    if len(facts.near) > ROWS:
        yield paragraph(f"{len(facts.near) - ROWS:,} more are in `{NEAR_DUPLICATES}`.", "muted")


def _clashes(facts: IngestFacts) -> Iterator[str]:
    yield heading("Studies under two patients")
    if not facts.clashes:
        yield paragraph("None.")
        return
    yield paragraph("These files are refused and nothing is merged: their study names more than one patient.")
    yield _bars(("PATIENT_CLASH",), {(detail,): count for detail, count in sorted(facts.clashes.items())})


def _text(facts: IngestFacts) -> Iterator[str]:
    yield heading("Text in the pixels")
    yield paragraph(f"{facts.notes()[-1].capitalize()}.")
    refused = facts.manifest.counts.get("refused.BURNED_IN", 0)
    if refused:
        yield paragraph(f"{_count(refused, 'file')} refused as BURNED_IN.")
    yield _pictures(facts, [(view_id, _name(view_id)) for view_id in _shown_texts(facts)])


def _made(facts: IngestFacts) -> Iterator[str]:
    yield heading("How views were made")
    tables: dict[str, Counter[str]] = {
        "projection from": facts.sources,
        "gray values from": facts.grays,
        "collimated border": facts.crops,
        "doubts": facts.doubts,
    }
    for name, counter in tables.items():
        if counter:
            ordered = sorted(counter.items(), key=lambda row: (-row[1], row[0]))
            yield _bars((name,), {(value,): count for value, count in ordered})


def _bars(head: Sequence[str], rows: Mapping[tuple[str, ...], int]) -> str:
    """A table of counts, each with a bar beside it."""
    most = max(rows.values(), default=1)
    lines = ['<div class="scroll"><table class="bars">']
    lines.append(f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in (*head, 'number', ''))}</tr>")
    for names, count in rows.items():
        cells = "".join(f"<td>{escape(name)}</td>" for name in names)
        bar = f'<span style="width: {100 * count / most:.1f}%"></span>'
        lines.append(f'<tr>{cells}<td class="number">{count:,}</td><td class="bar">{bar}</td></tr>')
    return "\n".join([*lines, "</table></div>"])


def _pictures(facts: IngestFacts, shown: Sequence[tuple[ViewId, str]]) -> str:
    pictures = [
        picture(facts.pictures[view_id], text) for view_id, text in shown if view_id in facts.pictures
    ]
    return f'<div class="thumbnails">{"".join(pictures)}</div>' if pictures else ""


def _name(view_id: ViewId) -> str:
    return f"{view_id[0][:8]}… view {view_id[1]}"


def _count(number: int, one: str, many: str = "") -> str:
    """A number with its noun.

    >>> _count(1, "study", "studies"), _count(1200, "pair")
    ('1 study', '1,200 pairs')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
