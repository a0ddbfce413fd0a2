"""What goes over the wire as JSON, for checking requests and for the OpenAPI page."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from ..engine.errors import RefusedError

Key = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
"""A key or pseudonym: no path, no text."""

Patient = Annotated[str, Field(max_length=64)]

Number = FiniteFloat


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ErrorAnswer(BaseModel):
    """Every error. limit: the setting in `limits` that was reached."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "error": "TOO_LARGE: 20000x20000 pixels, the limit is 100 million",
                "error_type": "TOO_LARGE",
                "limit": "megapixels",
                "request_id": "5b0c1f0c9d1e4d0f8f6f2b6d0b1a7c3e",
            }
        }
    )
    error: str
    error_type: str
    limit: str | None = None
    request_id: str


class ViewAnswer(BaseModel):
    """What is known of a view."""

    projection: str
    laterality: str
    modality: str


class EmbeddedItem(BaseModel):
    """One row of an embedding. view: of the file; views: of a study's files; vector or tokens, or an error instead."""

    view: ViewAnswer | None = None
    views: list[ViewAnswer] | None = None
    vector: list[float] | None = None
    tokens: list[list[float]] | None = None
    error: str | None = None
    error_type: str | None = None
    limit: str | None = None


class EmbedAnswer(BaseModel):
    """digest: of the vectors (weights, preprocessing, pooling), as in a feature table and a gallery."""

    level: Literal["image", "study", "patch"]
    digest: str
    dimensions: int
    items: list[EmbeddedItem]


class SearchQuery(_Request):
    """Query vectors, and for each a patient whose rows are left out, or a list of patients, or null."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"example": {"vectors": [[0.1, -0.2, 0.3]], "exclude_patients": [None]}},
    )
    vectors: list[list[Number]] = Field(min_length=1)
    exclude_patients: list[Patient | Annotated[list[Patient], Field(max_length=1000)] | None] | None = None

    def patients(self, vectors: int) -> list[list[str]]:
        """The patients to leave out for each of so many vectors. Raises RefusedError where the numbers differ."""
        each = self.exclude_patients or [None] * vectors
        if len(each) != vectors:
            raise RefusedError(
                422,
                "RequestError",
                f"{len(each)} patients for {vectors} vectors; give one for each, or a list",
            )
        return [[] if one is None else [one] if isinstance(one, str) else one for one in each]


class MatchAnswer(BaseModel):
    """A row of the gallery. findings: true, false, or null where unknown. study, views: where the shards hold it."""

    key: str
    view: str
    score: float
    split: str
    projections: list[str]
    findings: dict[str, bool | None]
    study: str | None = None
    views: list[ViewAnswer] | None = None


class SearchAnswerBody(BaseModel):
    """matches: of each query, best first. gallery: digest of the version. missing: ids of rows not searched."""

    digest: str
    gallery: str
    matches: list[list[MatchAnswer]]
    missing: list[tuple[int, int]]


class NeighborsAnswer(BaseModel):
    """As SearchAnswerBody, of one query."""

    digest: str
    gallery: str
    matches: list[MatchAnswer]
    missing: list[tuple[int, int]]


class NewItem(_Request):
    """A row to add to a gallery; view is empty in a gallery by study. A finding that is not named is unknown."""

    key: Key
    patient: Key
    view: Annotated[str, Field(pattern=r"^(view[0-9]{1,4})?$")] = ""
    split: Literal["train", "val", "test"] = "train"
    projections: list[Annotated[str, Field(pattern=r"^[A-Z]{1,16}$")]] = Field(default=[], max_length=32)
    findings: dict[str, bool] = {}
    vector: list[Number] = Field(min_length=1)


class NewItems(_Request):
    """Rows to add. digest: of their vectors, as POST /v1/embed gave it."""

    digest: str
    items: list[NewItem] = Field(min_length=1)


class IndexAnswer(BaseModel):
    """A gallery after a change. rows: that can be found; added: since it was built; deleted: not yet compacted."""

    gallery: str
    rows: int
    added: int
    deleted: int


class BoxAnswer(BaseModel):
    """A patch: its number, its cosine, and its box (left, top, right, bottom) in pixels of the view."""

    patch: int
    score: float
    box: tuple[int, int, int, int]


class GridAnswer(BaseModel):
    """The patches of a view of height x width pixels, in a square of `side` pixels with patches of `patch` pixels."""

    height: int
    width: int
    side: int
    patch: int
    letterbox: tuple[int, int, int, int]


class SimilarityQuery(_Request):
    """Two views by name, such as `test-12/0`."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"a": "test-12/0", "b": "test-12/1"}}
    )
    a: str
    b: str


class SimilarityAnswer(BaseModel):
    """A patch of view a against all patches of view b. scores: cosines by patch number; best: inside the view."""

    digest: str
    patch: int
    box: tuple[int, int, int, int]
    scores: list[float]
    best: list[BoxAnswer]
    a: GridAnswer
    b: GridAnswer


class AttentionQuery(_Request):
    """A view by name, such as `test-12/0`."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"example": {"view": "test-12/0"}}
    )
    view: str


class AttentionAnswer(BaseModel):
    """attention: of the CLS token in the last block, a row for each head, a number for each patch."""

    digest: str
    attention: list[list[float]]
    grid: GridAnswer


class UploadAnswer(BaseModel):
    """The name of an uploaded study, for this session only, and the seconds until it is deleted."""

    study: str
    seconds: float
    views: list[ViewAnswer]


class ShownRunAnswer(BaseModel):
    """A zero-shot or few-shot run. problem: why nothing else is known of it; empty where all is well."""

    number: str
    title: str
    kind: str
    experiment: str
    backbone: str
    digest: str
    figures: list[str]
    left_out: int
    problem: str


class RunsAnswer(BaseModel):
    """The runs that the service shows."""

    runs: list[ShownRunAnswer]


class RunAnswer(ShownRunAnswer):
    """What a run measured. columns, rows: of its summary; rows_in_file: all of them, of which the first are here."""

    metrics: dict[str, float | None]
    columns: list[str]
    rows: list[list[str]]
    rows_in_file: int
    notes: str
