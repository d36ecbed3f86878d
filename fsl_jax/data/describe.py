"""Description vectors: what is said of a photo as numbers, the weak labels of the adaptive triplet loss."""

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from fsl_jax.data.table import Table

TFIDF = "tfidf"
SEED = 0
# Below this share of a description's length, what is left of it is the error of rounding.
TINY = 1e-6


@dataclasses.dataclass(frozen=True)
class Describer:
    """Turns descriptions into vectors.

    Attributes:
      vectorizer: Counts and weighs words; scikit-learn's.
      components: The directions that are kept, in the space of words.
      dimensions: Length of a vector.
    """

    vectorizer: Any
    components: Float[np.ndarray, "k words"]
    dimensions: int

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n dimensions"]:
        """Describes texts.

        Returns:
          float32 rows of length 1; zero where a text is empty, or has no word of those that were fitted.
        """
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        if not len(texts):
            return vectors
        kept = self.vectorizer.transform(texts) @ self.components.T
        length = np.linalg.norm(kept, axis=1, keepdims=True)
        vectors[:, : kept.shape[1]] = np.divide(kept, length, out=np.zeros_like(kept), where=length > TINY)
        return vectors


def fit_descriptions(texts: Sequence[str], *, dimensions: int, seed: int) -> Describer:
    """Learns from descriptions which words tell them apart.

    Words and pairs of words, of any language, are weighed by sublinear TF-IDF; a truncated singular value
    decomposition keeps the directions in which descriptions differ most (latent semantic analysis).

    Args:
      texts: Training descriptions; empty ones are left out.
      dimensions: Length of a vector. Where the texts have fewer directions, the rest is 0.
      seed: Of the decomposition, which is randomised.

    Raises:
      ValueError: No text has a word, dimensions is below 1, or scikit-learn is not installed.

    References:
      Deerwester et al. 1990, Indexing by latent semantic analysis.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.utils.extmath import randomized_svd
    except ImportError as error:
        raise ValueError(
            "description vectors need scikit-learn, which is not installed: pip install 'fsl_jax[text]'"
        ) from error
    if dimensions < 1:
        raise ValueError(f"config.data.text.dimensions is {dimensions}; expected at least 1")
    # By default scikit-learn drops words of one letter, such as sizes, and most words of Chinese.
    vectorizer = TfidfVectorizer(
        sublinear_tf=True, ngram_range=(1, 2), min_df=1, token_pattern=r"(?u)\b\w+\b"
    )
    spoken = [text for text in texts if vectorizer.build_tokenizer()(text)]
    if not spoken:
        raise ValueError(f"none of {len(texts)} descriptions has a word; expected some to learn from")
    words = vectorizer.fit_transform(spoken)
    _, strength, components = randomized_svd(
        words, min(dimensions, words.shape[1]), n_iter=5, random_state=seed
    )
    # Directions that no text has are arbitrary, and would describe other texts at random.
    return Describer(vectorizer, components[strength > TINY * strength[0]], dimensions)


def read_vectors(file: str | Path, table: Table) -> Float[np.ndarray, "n t"]:
    """Reads vectors of descriptions that some other model made.

    Args:
      file: A .npz with `vector` [m, t], and `path` or `label` [m] that says whose they are.
      table: Its rows are looked up by path, where both have it, and else by the name of the label.

    Returns:
      float32, one row a row of the table, as long as they are in the file.

    Raises:
      ValueError: The file is not like this, names something twice, or lacks rows of the table.
    """
    kind, names, vectors = _read(Path(file), by_path=table.path is not None)
    row = {name: i for i, name in reversed([*enumerate(names)])}
    if len(row) < len(names):
        twice = next(name for i, name in enumerate(names) if row[name] != i)
        raise ValueError(f"{file} has {kind} {twice!r} twice; expected each {kind} once")
    if kind == "path":
        wanted = [str(path) for path in table.path]  # type: ignore[union-attr]
    else:
        wanted = [table.label.names[code] for code in table.label.codes]
    missing = [name for name in wanted if name not in row]
    if missing:
        raise ValueError(
            f"{file} has no vector for {len(missing)} of {len(wanted)} photos of {table.source}, "
            f"first {kind} {missing[0]!r}; its first {kind} is {names[0] if names else 'not there'!r}"
        )
    return vectors[[row[name] for name in wanted]]


def _read(file: Path, *, by_path: bool) -> tuple[str, list[str], Float[np.ndarray, "m t"]]:
    if not file.is_file() or not zipfile.is_zipfile(file):
        raise ValueError(f"config.data.text.vectors is {str(file)!r}; expected {TFIDF!r}, or a .npz file")
    with np.load(file, allow_pickle=False) as arrays:
        kinds = [kind for kind in ("path", "label") if kind in arrays and (by_path or kind != "path")]
        if "path" in arrays and not kinds:
            raise ValueError(
                f"{file} has vectors by path, but the photos were read into memory, without their paths: give "
                "vectors by label, or keep the photos as files with --config.data.resident_gb=0"
            )
        if "vector" not in arrays or not kinds:
            have = ", ".join(sorted(arrays)) or "nothing"
            raise ValueError(f"{file} has {have}; expected vector [m, t], and path or label [m]")
        try:
            names, vectors = arrays[kinds[0]], arrays["vector"]
        except ValueError as error:  # Python objects in place of text, which could run code as they are read
            raise ValueError(
                f"{file} has Python objects; save {kinds[0]} as np.asarray({kinds[0]}, dtype=str)"
            ) from error
    if vectors.ndim != 2 or names.shape != vectors.shape[:1]:
        raise ValueError(
            f"{file} has vector {vectors.shape} and {kinds[0]} {names.shape}; expected [m, t] and [m]"
        )
    vectors = vectors.astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise ValueError(f"{file} has a vector of {kinds[0]} {str(names[broken[0]])!r} that is not finite")
    return kinds[0], [str(name).replace("\\", "/") for name in names], vectors


def description_vectors(table: Table, config: ConfigDict) -> Float[np.ndarray, "n t"]:
    """Returns a vector a row that says what is written of it.

    Args:
      table: The training photos.
      config: `config.data.text`: `vectors` is "tfidf", learnt from the table's own descriptions, or a file of
        `read_vectors`; `dimensions` is the length of the former.

    Raises:
      ValueError: The table has no descriptions, or the file does not fit it.
    """
    if config.vectors != TFIDF:
        return read_vectors(config.vectors, table)
    texts = [] if table.text is None else [str(text) for text in table.text]
    if not any(text.strip() for text in texts):
        raise ValueError(
            f"{table.source} has no descriptions to make vectors of; csv_manifest has them in a column text or "
            "description, and catalogue makes them. Or give vectors: --config.data.text.vectors=FILE.npz"
        )
    return fit_descriptions(texts, dimensions=config.dimensions, seed=SEED)(texts)
