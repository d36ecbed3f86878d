"""Lake's one-shot classification: 20 characters of one alphabet, one drawing of each, and a second hand's drawings.

A run has 20 training drawings by one drawer and 20 test drawings of the same characters by another; each of ten
alphabets has two runs. The error is averaged over runs. Characters of one alphabet are alike: a model errs here more
than twice as often as among characters of all alphabets, so that neither figure may stand for the other.

References:
  Lake et al. 2015, https://doi.org/10.1126/science.aab3050; Lake et al. 2019, https://arxiv.org/abs/1902.03477.
"""

import dataclasses
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float, Int, UInt8

from fsl_jax.data.sources import omniglot
from fsl_jax.lookup import closest

ALPHABETS = (
    "Atlantean",
    "Ge_ez",
    "Glagolitic",
    "Gurmukhi",
    "Kannada",
    "Malayalam",
    "Manipuri",
    "Old_Church_Slavonic_(Cyrillic)",
    "Tengwar",
    "Tibetan",
)
"""Evaluation alphabets from which Lake took two runs each."""
OTHERS = (
    "Angelic",
    "Atemayar_Qelisayer",
    "Aurek-Besh",
    "Avesta",
    "Keble",
    "Mongolian",
    "Oriya",
    "Sylheti",
    "Syriac_(Serto)",
    "ULOG",
)
"""The other evaluation alphabets, on which settings can be chosen."""
WAY = 20
ANSWERS = "class_labels.txt"

Classify = Callable[[UInt8[np.ndarray, "..."], UInt8[np.ndarray, "..."]], Int[np.ndarray, "runs queries"]]
"""From support and query drawings of several runs to the place in the support that each query is taken for."""


@dataclasses.dataclass(frozen=True)
class Trials:
    """Runs of one-shot classification.

    Attributes:
      support: One drawing of each character.
      query: Drawings that are asked about.
      answer: Which of the support each query shows.
      names: Of the runs, such as their alphabet.
    """

    support: UInt8[np.ndarray, "runs way side side 1"]
    query: UInt8[np.ndarray, "runs queries side side 1"]
    answer: Int[np.ndarray, "runs queries"]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclasses.dataclass(frozen=True)
class OneShotError:
    """Shares of wrong answers.

    Attributes:
      of_run: Each run's, 0 to 1.
      names: Of the runs.
    """

    of_run: Float[np.ndarray, "runs"]
    names: tuple[str, ...]

    @property
    def mean(self) -> float:
        """The mean over runs."""
        return float(self.of_run.mean())

    @property
    def ci95(self) -> float:
        """Half the width of the 95 % interval of the mean: 1.96 standard errors over runs; NaN for a single run."""
        runs = len(self.of_run)
        return float(1.96 * self.of_run.std(ddof=1) / np.sqrt(runs)) if runs > 1 else float("nan")

    def by_name(self) -> dict[str, float]:
        """Returns the mean error of the runs of each name."""
        names = np.asarray(self.names)
        return {name: float(self.of_run[names == name].mean()) for name in dict.fromkeys(self.names)}


def draw_runs(
    root: str | Path,
    *,
    alphabets: Sequence[str] = ALPHABETS,
    repeats: int = 2,
    seed: int = 0,
    side: int = 28,
    inverted: bool = True,
    centred: bool = False,
    resample: omniglot.Resample = "antialias",
) -> Trials:
    """Draws runs in the way of Lake's, for those who have Omniglot but not the official runs.

    Args:
      root: Folder of Omniglot, see `omniglot.load`.
      alphabets: Evaluation alphabets that runs are drawn from.
      repeats: Runs of each alphabet; 2 as published, more for a narrower interval.
      seed: Of the characters and drawers.
      side: Pixels a side.
      inverted: Whether ink is bright on black.
      centred: Whether ink is moved to the middle.
      resample: See `omniglot.load`.

    Returns:
      Runs, by alphabet: 20 characters, each drawn by two drawers, who are the same two in all of a run.

    Raises:
      ValueError: Omniglot is not there, an alphabet is none of its evaluation alphabets with 20 characters, or
        `repeats` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; expected at least 1 run an alphabet")
    table = omniglot.load(
        root,
        "test",
        split_rule="lake",
        rotations=False,
        side=side,
        inverted=inverted,
        centred=centred,
        resample=resample,
    )
    assert table.images is not None
    drawings = table.images.reshape(len(table.label.names), omniglot.DRAWINGS, *table.images.shape[1:])
    alphabet = np.array([name.split("/")[0] for name in table.label.names])
    enough = [name for name in sorted(set(alphabet)) if (alphabet == name).sum() >= WAY]
    for name in alphabets:
        if name not in enough:
            raise ValueError(
                f"no evaluation alphabet {name!r} with {WAY} characters; {closest(name, enough)}"
            )
    rng = np.random.default_rng(seed)
    support, query, names = [], [], []
    for name in alphabets:
        for _ in range(repeats):
            characters = rng.choice(np.flatnonzero(alphabet == name), WAY, replace=False)
            first, second = rng.choice(omniglot.DRAWINGS, 2, replace=False)
            support.append(drawings[characters, first])
            query.append(drawings[characters, second])
            names.append(name)
    answer = np.tile(np.arange(WAY), (len(names), 1))
    return Trials(np.stack(support), np.stack(query), answer, tuple(names))


def read_runs(
    folder: str | Path,
    *,
    side: int = 28,
    inverted: bool = True,
    centred: bool = False,
    resample: omniglot.Resample = "antialias",
) -> Trials:
    """Reads the official runs: `all_runs.zip` of Lake's repository, or the folder with run01 to run20 in it.

    A run holds training/*.png, test/*.png, and class_labels.txt with a line "run01/test/item01.png
    run01/training/class03.png" for each test drawing.

    Args:
      folder: The archive, or a folder.
      side: Pixels a side.
      inverted: Whether ink is bright on black.
      centred: Whether ink is moved to the middle.
      resample: See `omniglot.load`.

    Raises:
      ValueError: There are no runs, or one is not whole; the message says what is missing.
    """
    files = _files(Path(folder))
    answers = sorted(name for name in files if PurePosixPath(name).name == ANSWERS)
    if not answers:
        raise ValueError(
            f"no run with a {ANSWERS} in {folder}: give the all_runs.zip of "
            "https://github.com/brendenlake/omniglot (python/one-shot-classification), or its folder"
        )
    if ANSWERS in answers:
        raise ValueError(f"{folder} is one run: give the folder above, with all of them")
    answered = {PurePosixPath(name).parent for name in answers}
    drawn = {
        PurePosixPath(name).parents[1] for name in files if PurePosixPath(name).parent.name == "training"
    }
    if unanswered := sorted(map(str, drawn - answered)):
        raise ValueError(
            f"{unanswered[0]} in {folder} has drawings but no {ANSWERS}: unpack all_runs.zip anew"
        )
    runs = [_run(files, name, side, inverted, centred, resample) for name in answers]
    shapes = {(len(support), len(query)) for support, query, _ in runs}
    if len(shapes) > 1:
        raise ValueError(f"runs in {folder} have unequal numbers of drawings: {sorted(shapes)}")
    support, query, answer = (np.stack(parts) for parts in zip(*runs, strict=True))
    return Trials(support, query, answer, tuple(PurePosixPath(name).parent.name for name in answers))


def _files(folder: Path) -> dict[str, bytes]:
    """Reads drawings and answers, some hundred bytes each, by their paths inside."""
    if folder.is_dir():
        return {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in folder.rglob("*")
            if file.suffix in (".png", ".txt") and file.is_file() and not file.name.startswith(".")
        }
    if not zipfile.is_zipfile(folder):
        raise ValueError(f"{folder} is neither a folder nor a zip file: give all_runs.zip or its folder")
    with zipfile.ZipFile(folder) as archive:
        # A copy of the resource forks of macOS lies beside the files of some archives.
        names = [name for name in archive.namelist() if not PurePosixPath(name).name.startswith(".")]
        return {name: archive.read(name) for name in names if not name.startswith("__MACOSX")}


def _run(
    files: Mapping[str, bytes],
    answers: str,
    side: int,
    inverted: bool,
    centred: bool,
    resample: omniglot.Resample,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads support, query and answers of one run."""
    above = PurePosixPath(answers).parent.parent
    pairs = [
        tuple(str(above / name) for name in line.split())
        for line in files[answers].decode().splitlines()
        if line.strip()
    ]
    if not pairs:
        raise ValueError(f"{answers} is empty; expected a line for each test drawing")
    place = PurePosixPath(answers).parent / "training"
    training = sorted(name for name in files if PurePosixPath(name).parent == place and name.endswith(".png"))
    for pair in pairs:
        if len(pair) != 2 or pair[0] not in files or pair[1] not in training:
            raise ValueError(
                f"{answers} names {' '.join(pair)}, which are not a test and a training drawing of it"
            )

    def drawn(name: str) -> np.ndarray:
        try:
            pixels = omniglot.read_drawing(files[name], side, centred=centred, resample=resample)[..., None]
        except OSError as error:
            raise ValueError(f"{name} cannot be read as a picture: {error}") from error
        return 255 - pixels if inverted else pixels

    support, query = (
        np.stack([drawn(name) for name in names]) for names in (training, [p[0] for p in pairs])
    )
    return support, query, np.array([training.index(shown) for _, shown in pairs])


def judge(trials: Trials, classify: Classify) -> OneShotError:
    """Counts wrong answers.

    Args:
      trials: The runs.
      classify: From `support` and `query` of all runs to the support drawing that each query is taken for.
    """
    wrong = np.asarray(classify(trials.support, trials.query)) != trials.answer
    return OneShotError(wrong.mean(axis=1), trials.names)


def modified_hausdorff(
    support: UInt8[np.ndarray, "runs way side side 1"], query: UInt8[np.ndarray, "runs queries side side 1"]
) -> Int[np.ndarray, "runs queries"]:
    """Classifies by Lake's baseline, which has learnt nothing: 38.8 % error on the official runs.

    The distance of two drawings is the mean distance of the inked pixels of one from the nearest of the other,
    whichever way it is greater, after both are centred. Give bright ink on black; the published figure is of drawings
    of 105 pixels.

    References:
      Dubuisson and Jain 1994, https://doi.org/10.1109/ICPR.1994.576361.
    """

    def inked(images: np.ndarray) -> list[Float[np.ndarray, "points 2"]]:
        points = [np.argwhere(image[..., 0] > 127).astype(np.float32) for image in images]
        return [p - p.mean(axis=0) if len(p) else np.zeros((1, 2), np.float32) for p in points]

    answers = []
    for of_support, of_query in zip(support, query, strict=True):
        known = inked(of_support)
        distances = [[_hausdorff(asked, each) for each in known] for asked in inked(of_query)]
        answers.append(np.argmin(distances, axis=1))
    return np.stack(answers)


def _hausdorff(one: Float[np.ndarray, "n 2"], other: Float[np.ndarray, "m 2"]) -> float:
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2 * one @ other.T
    nearest = squares.min(axis=1), squares.min(axis=0)
    return float(max(np.sqrt(np.maximum(each, 0)).mean() for each in nearest))
