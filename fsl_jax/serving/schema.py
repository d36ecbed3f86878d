"""What the JSON interface takes and gives."""

from typing import Annotated, Literal

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field

from fsl_jax.serving.catalogue import MOST
from fsl_jax.serving.limits import PHOTOS_AT_ONCE


class Error(BaseModel):
    """Why a request was refused."""

    error: str


class Found(BaseModel):
    """An article that was found: the best of its photos."""

    label: str
    id: str
    score: float = Field(description="Cosine similarity, -1 to 1; larger is nearer.")
    probability: float | None = Field(
        description="That it is the same article; null: the index is not calibrated."
    )
    same_article: bool | None = Field(description="The score reaches the threshold; null: no calibration.")
    photos: int = Field(description="Photos of the label in the index.")
    thumbnail: str = Field(description="Address of its small photo.")


class Hits(BaseModel):
    """The nearest articles, the best first."""

    hits: list[Found]
    threshold: float | None = Field(description="Score from which on it counts as the same article.")


class Ranked(BaseModel):
    """A label and its probability among those of the index."""

    label: str
    probability: float


class Guessed(BaseModel):
    """The label of a photo."""

    label: str | None = Field(description="null: the photo is of none of the labels.")
    probability: float | None
    score: float | None = Field(description="Cosine similarity with the label's mean direction.")
    ranked: list[Ranked]


class Listed(BaseModel):
    """An article of the index."""

    label: str
    photos: int
    ids: list[str]
    thumbnail: str


class Articles(BaseModel):
    """Articles in the order of the alphabet."""

    articles: list[Listed]
    total: int
    offset: int


class AddedPhotos(BaseModel):
    """What was added."""

    label: str
    ids: list[str]
    photos: int = Field(description="Photos of the label in the index now.")


class RemovedPhotos(BaseModel):
    """What was removed."""

    removed: int = Field(description="Photos.")


class Health(BaseModel):
    """The service's state, and what it allows."""

    status: Literal["ready"]
    photos: int
    articles: int
    calibrated: bool
    writable: bool = Field(description="A token is configured.")
    digest: str = Field(description="Of the model's weights and preprocessing.")
    k: int = Field(description="Articles of an answer where no number is given.")
    max_k: int
    max_upload: int = Field(description="Bytes of one photo.")
    max_pixels: int = Field(description="Width times height.")
    version: str


class SearchForm(BaseModel):
    """A photo and how many articles are wanted."""

    model_config = ConfigDict(extra="forbid")
    photo: UploadFile = Field(description="JPEG, PNG, WebP, GIF, BMP or TIFF.")
    k: Annotated[int, Field(ge=1, le=MOST)] | None = Field(None, description="Articles of the answer.")


class AddForm(BaseModel):
    """Photos of one article."""

    model_config = ConfigDict(extra="forbid")
    label: str = Field(description="Name of the article; new, or one that is there.")
    photos: list[UploadFile] = Field(
        min_length=1, max_length=PHOTOS_AT_ONCE, description=f"One file or more, at most {PHOTOS_AT_ONCE}."
    )
