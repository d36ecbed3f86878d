"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people."""

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL import __version__ as PILLOW

from fsl_jax.data.cache import cache_folder, keep
from fsl_jax.data.prepare import download
from fsl_jax.data.table import SPLITS, Coded, Table
from fsl_jax.lookup import closest
from fsl_jax.progress import track

SplitRule = Literal["lake", "finn", "maml_plus", "vinyals"]
Resample = Literal["antialias", "nearest"]

CHARACTERS = {"images_background": 964, "images_evaluation": 659}
DRAWINGS = 20
SHUFFLED = {"finn": (1100, 100, 423), "maml_plus": (1150, 50, 423)}
ROTATIONS = (0, 90, 180, 270)
MINIMAL = {
    "small1": ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin"),
    "small2": ("Greek", "Japanese_(katakana)", "Latin", "Sanskrit", "Tagalog"),
}
"""Lake's minimal sets of background alphabets, 136 and 156 characters."""
DOWNLOADS = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
MOST_KEPT = 64
"""Pixels a side up to which decoded drawings are kept in the user's cache folder; the two archives take 130 MB then."""
KEPT_AS = 1
"""Version of what a cache file holds: another whenever drawings are decoded in another way."""
ADVICE = "get images_background.zip and images_evaluation.zip from https://github.com/brendenlake/omniglot"

Drawings = UInt8[np.ndarray, "20 side side 1"]


def load(
    root: str | Path | None,
    split: str,
    *,
    split_rule: SplitRule = "lake",
    val_characters: int = 96,
    alphabets: str | Sequence[str] = (),
    split_seed: int = 0,
    rotations: bool | None = None,
    lists: str | Path | None = None,
    side: int = 28,
    inverted: bool = True,
    centred: bool = False,
    resample: Resample = "antialias",
) -> Table:
    """Reads the official archives, zipped or unpacked; small drawings out of zip files are decoded once and kept.

    Labels are `Alphabet/characterNN`, followed by `/rotNNN` where rotated drawings are labels of their own.

    Args:
      root: Folder with images_background.zip and images_evaluation.zip, or the folders inside them.
      split: "train", "val", "test", or several joined by "+".
      split_rule: "lake" trains on the background alphabets and tests on the evaluation alphabets; "finn"
        shuffles all characters into 1,100/100/423, "maml_plus" into 1,150/50/423; "vinyals" reads `lists`.
      val_characters: Background characters that "lake" keeps for validation, drawn by `split_seed`.
      alphabets: Background alphabets from which "lake" takes its characters for training and validation; all 30 by
        default. `MINIMAL` has Lake's two sets of five.
      split_seed: Of every shuffle; the published shuffles depend on the order of a file system and cannot be
        had.
      rotations: Whether drawings turned by 90, 180 and 270 degrees, anticlockwise, are further labels. By
        default as in the lists of "vinyals", and not at all under the other rules.
      lists: Folder with vinyals_train.txt, vinyals_val.txt and vinyals_test.txt, a label a line; by default
        `splits` inside root.
      side: Pixels a side; the files have 105.
      inverted: Whether ink is bright on black, as Finn and Snell have it; otherwise black on white.
      centred: Whether the middle of the ink is moved to the middle of the drawing, as Lake's baseline does.
      resample: "antialias" is a Lanczos filter on grey levels. "nearest" is what the programs of Finn and
        Snell do in effect: they hand 1-bit pictures to Pillow, which then takes the nearest pixel whatever
        filter is named.

    Returns:
      A table with `images` [n, side, side, 1] and the levels "alphabet" and "alphabet_and_turn", such as
      "Korean/rot090": tasks of one alphabet and one turn have no character beside its own copy.

    Raises:
      ValueError: Files are missing or are not the published set, or an option is not allowed.

    References:
      Lake et al. 2015, https://doi.org/10.1126/science.aab3050; Vinyals et al. 2016,
      https://arxiv.org/abs/1606.04080; Finn et al. 2017, https://arxiv.org/abs/1703.03400; Snell et al. 2017,
      https://arxiv.org/abs/1703.05175; Antoniou et al. 2019, https://arxiv.org/abs/1810.09502.
    """
    _check_options(split_rule, val_characters, side, resample)
    alphabets = (alphabets,) if isinstance(alphabets, str) and alphabets else tuple(alphabets)
    if alphabets and split_rule != "lake":
        raise ValueError(
            f"alphabets are of split_rule 'lake', which deals by alphabet, not of {split_rule!r}"
        )
    folder = _folder(root)
    drawings = {part: _read(folder, part, side, centred, resample) for part in CHARACTERS}
    if split_rule == "vinyals":
        dealt = _listed(Path(lists) if lists is not None else folder / "splits", rotations)
    else:
        names = {part: sorted(characters) for part, characters in drawings.items()}
        names["images_background"] = _of_alphabets(names["images_background"], alphabets, val_characters)
        dealt = _dealt(names, split_rule, val_characters, split_seed, ROTATIONS if rotations else None)
    return _table({**drawings["images_background"], **drawings["images_evaluation"]}, dealt, inverted).select(
        split
    )


def prepare(root: str | Path | None) -> str:
    """Downloads those of the two official archives that are missing, and checks both, byte for byte."""
    if root is None:
        raise ValueError("omniglot needs a root folder to download into")
    for part in CHARACTERS:
        file = Path(root) / f"{part}.zip"
        if not file.is_file() and not (Path(root) / part).is_dir():
            download(f"{DOWNLOADS}/{part}.zip", file)
        # What was decoded before would hide it.
        if zipfile.is_zipfile(file) and (broken := _damaged(file)) is not None:
            raise ValueError(f"{file} is damaged at {broken}; remove it and {ADVICE}")
    table = load(root, "train+test", val_characters=0)
    return f"omniglot: {len(table.label.names):,} characters, {len(table):,} drawings in {root}"


def _damaged(archive: Path) -> str | None:
    """Names the first file of an archive that does not have its checksum."""
    with zipfile.ZipFile(archive) as opened:
        return opened.testzip()


def _check_options(split_rule: str, val_characters: int, side: int, resample: str) -> None:
    if split_rule not in get_args(SplitRule):
        raise ValueError(f"split_rule is {split_rule!r}; expected one of {', '.join(get_args(SplitRule))}")
    if not 0 <= val_characters < CHARACTERS["images_background"]:
        raise ValueError(
            f"val_characters is {val_characters}; expected 0 to 963, so that some are left for training"
        )
    if side < 1:
        raise ValueError(f"side is {side}; expected at least 1 pixel")
    if resample not in get_args(Resample):
        raise ValueError(f"resample is {resample!r}; expected one of {', '.join(get_args(Resample))}")


def _folder(root: str | Path | None) -> Path:
    if root is None:
        raise ValueError(f"omniglot needs a root folder; {ADVICE}")
    for folder in (Path(root), Path(root) / "omniglot"):
        if any((folder / f"{part}{suffix}").exists() for part in CHARACTERS for suffix in ("", ".zip")):
            return folder
    raise ValueError(f"no Omniglot in {root}: neither images_background.zip nor images_background/; {ADVICE}")


def _read(folder: Path, part: str, side: int, centred: bool, resample: Resample) -> dict[str, Drawings]:
    """Reads one of the two archives: drawings by character."""
    file = _kept_in(folder / f"{part}.zip", f"{side} {centred} {resample}") if side <= MOST_KEPT else None
    drawings = _kept(file) if file is not None else {}
    if not drawings:
        drawings = _decoded(folder, part, side, centred, resample)
        if file is not None:
            names, values = list(drawings), np.stack(list(drawings.values()))
            keep(file, lambda stream: np.savez(stream, names=names, drawings=values))
    return drawings


def _kept_in(archive: Path, how: str) -> Path | None:
    """Returns the cache file of an archive's drawings, of their checksums and of how they are made; None of no archive.

    They take 15 seconds of a core to decode, in every run of a sweep.
    """
    if archive.with_suffix("").is_dir() or not zipfile.is_zipfile(archive):
        return None
    with zipfile.ZipFile(archive) as opened:
        content = sorted((member.filename, member.CRC, member.file_size) for member in opened.infolist())
    identity = repr((KEPT_AS, PILLOW, how, content))
    return cache_folder() / "omniglot" / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.npz"


def _kept(file: Path) -> dict[str, Drawings]:
    """Reads a cache file; nothing where there is none, or it is damaged."""
    try:
        with file.open("rb") as stream, np.load(stream) as kept:
            return dict(zip(kept["names"].tolist(), kept["drawings"], strict=True))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}


def _decoded(folder: Path, part: str, side: int, centred: bool, resample: Resample) -> dict[str, Drawings]:
    expected = CHARACTERS[part] * DRAWINGS
    characters: dict[str, list[np.ndarray]] = {}
    files = track(_files(folder, part), description=f"reading {part}", total=expected, unit="drawings")
    for name, data in files:
        *_, alphabet, character, _ = PurePosixPath(name).parts
        characters.setdefault(f"{alphabet}/{character}", []).append(
            read_drawing(data, side, centred=centred, resample=resample)
        )
    _check_counts(folder, part, characters)
    return {name: np.stack(drawings)[..., None] for name, drawings in characters.items()}


def _files(folder: Path, part: str) -> Iterator[tuple[str, bytes]]:
    """Gives (path, content) of each drawing, sorted by path."""
    if (folder / part).is_dir():
        for file in sorted((folder / part).glob("*/*/*.png")):
            if not file.name.startswith("."):
                yield file.relative_to(folder).as_posix(), file.read_bytes()
        return
    if not (folder / f"{part}.zip").is_file():
        raise ValueError(f"no {part}.zip and no {part}/ in {folder}; {ADVICE}")
    if not zipfile.is_zipfile(folder / f"{part}.zip"):
        raise ValueError(f"{folder / part}.zip is no whole zip file; remove it and {ADVICE}")
    with zipfile.ZipFile(folder / f"{part}.zip") as archive:
        for name in sorted(archive.namelist()):
            if name.startswith(part) and name.endswith(".png"):
                yield name, archive.read(name)


def read_drawing(
    data: bytes, side: int, *, centred: bool, resample: Resample
) -> UInt8[np.ndarray, "side side"]:
    """Reads one drawing, black on white as it is published, at so many pixels a side; see `load`."""
    with Image.open(io.BytesIO(data)) as file:
        image = _centred(file.convert("L")) if centred else file.convert("L")
        method = Image.Resampling.LANCZOS if resample == "antialias" else Image.Resampling.NEAREST
        return np.asarray(image.resize((side, side), method))


def _centred(image: Image.Image) -> Image.Image:
    """Moves the mean of the inked pixels to the middle, by whole pixels; what comes in is white."""
    ink = np.argwhere(np.asarray(image) < 128)
    if not len(ink):
        return image
    down, right = np.rint((np.array(image.size[::-1]) - 1) / 2 - ink.mean(axis=0)).astype(int)
    moved = Image.new("L", image.size, 255)
    moved.paste(image, (int(right), int(down)))
    return moved


def _check_counts(folder: Path, part: str, characters: Mapping[str, Sequence[np.ndarray]]) -> None:
    if len(characters) != CHARACTERS[part]:
        raise ValueError(
            f"{part} in {folder} has {len(characters)} characters; expected {CHARACTERS[part]}; {ADVICE}"
        )
    for name, drawings in characters.items():
        if len(drawings) != DRAWINGS:
            raise ValueError(
                f"{name} of {part} in {folder} has {len(drawings)} drawings; expected 20; {ADVICE}"
            )


def _of_alphabets(names: list[str], alphabets: Sequence[str], val_characters: int) -> list[str]:
    """Takes the characters of some alphabets, of which more than `val_characters` must be left."""
    there = sorted({name.split("/")[0] for name in names})
    for alphabet in alphabets:
        if alphabet not in there:
            raise ValueError(f"no alphabet {alphabet!r} in images_background; {closest(alphabet, there)}")
    chosen = [name for name in names if not alphabets or name.split("/")[0] in alphabets]
    if len(chosen) <= val_characters:
        raise ValueError(
            f"these alphabets have {len(chosen)} characters, of which val_characters={val_characters} would leave none "
            "for training: lower it"
        )
    return chosen


def _dealt(
    names: Mapping[str, list[str]],
    split_rule: SplitRule,
    val_characters: int,
    seed: int,
    rotations: tuple[int, ...] | None,
) -> dict[str, str]:
    """Gives the split of each label; the rotations of a character stay together."""
    rng = np.random.default_rng(seed)
    background, evaluation = names["images_background"], names["images_evaluation"]
    if split_rule == "lake":
        shuffled = rng.permutation(background)
        groups = [shuffled[val_characters:], shuffled[:val_characters], np.array(evaluation)]
    else:
        train, val, _ = SHUFFLED[split_rule]
        groups = np.split(rng.permutation(background + evaluation), [train, train + val])
    turned = ("",) if rotations is None else tuple(f"/rot{angle:03d}" for angle in rotations)
    return {
        f"{name}{turn}": split
        for split, group in zip(SPLITS, groups, strict=True)
        for name in group
        for turn in turned
    }


def _listed(lists: Path, rotations: bool | None) -> dict[str, str]:
    """Reads Vinyals' lists in the format that Snell released."""
    dealt: dict[str, str] = {}
    for split in SPLITS:
        file = lists / f"vinyals_{split}.txt"
        if not file.is_file():
            raise ValueError(
                f"no {file}; copy the lists of https://github.com/jakesnell/prototypical-networks there"
            )
        for label in file.read_text(encoding="utf-8").split():
            if rotations is not False or label.endswith("/rot000"):
                dealt[label] = split
    return dealt


def _table(drawings: Mapping[str, Drawings], dealt: Mapping[str, str], inverted: bool) -> Table:
    labels = sorted(dealt)
    images = np.concatenate([_turned(drawings, label) for label in labels])
    names = {
        "alphabet": [label.split("/")[0] for label in labels],
        "alphabet_and_turn": ["/".join(label.split("/")[::2]) for label in labels],
    }
    levels = {level: Coded.of(of_label) for level, of_label in names.items()}
    return Table(
        source="omniglot",
        label=Coded(np.repeat(np.arange(len(labels), dtype=np.int32), DRAWINGS), tuple(labels)),
        split=np.repeat(np.array([dealt[label] for label in labels]), DRAWINGS),
        images=255 - images if inverted else images,
        levels={name: Coded(np.repeat(level.codes, DRAWINGS), level.names) for name, level in levels.items()},
    )


def _turned(drawings: Mapping[str, Drawings], label: str) -> Drawings:
    alphabet, character, *turn = label.split("/")
    name = f"{alphabet}/{character}"
    angle: Any = turn[0].removeprefix("rot") if turn else "0"
    if name not in drawings or angle not in {"0", *(f"{known:03d}" for known in ROTATIONS)}:
        raise ValueError(
            f"{label!r} of the lists is not in Omniglot; expected such as 'Korean/character01/rot090'"
        )
    return np.rot90(drawings[name], k=int(angle) // 90, axes=(1, 2))
