"""Lake's one-shot runs: what is drawn or read, who is judged how, and what the command says."""

import io
import itertools
import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from configs import maml, protonet
from fsl_jax import run
from fsl_jax.cli import app
from fsl_jax.data.sources import omniglot
from fsl_jax.evaluation import one_shot
from fsl_jax.evaluation.one_shot import Trials, draw_runs, judge, modified_hausdorff, read_runs

ALIKE = "Tibetan"
CHARACTERS = 21
BACKGROUND = [f"Runes{number}" for number in range(5)]
COUNTS = {
    "images_background": len(BACKGROUND) * CHARACTERS,
    "images_evaluation": 10 * CHARACTERS,
}


def png(points):
    """A file as the set has them: 105 pixels, 1 bit, ink black."""
    ink = np.ones((105, 105), bool)
    ink[tuple(np.transpose(points))] = False
    stream = io.BytesIO()
    Image.fromarray(ink).save(stream, "PNG")
    return stream.getvalue()


def drawing(place, character, drawer, *, alike=False):
    """Dots of 2 x 2: the first at (character, drawer), the second below it, `place` of the alphabet to the right.

    A third dot gives each character its shape, wherever it lies; without, all of an alphabet are alike.
    """
    dots = [(character, drawer), (character + 2, drawer + place)]
    if not alike:
        dots.append((2 * character + 4, drawer))
    return png([(row + down, column + right) for row, column in dots for down in (0, 1) for right in (0, 1)])


def read_back(image):
    """Gives the place of the alphabet, the character and the drawer of a bright drawing of 105 pixels."""
    inked = np.argwhere(image[..., 0] > 127)
    (character, drawer), below = inked[0], inked[4, 1]
    return int(below - drawer), int(character), int(drawer)


def archives(folder, evaluation):
    """Makes Omniglot's layout, with 21 characters in each alphabet."""
    for part, alphabets in {"images_background": BACKGROUND, "images_evaluation": evaluation}.items():
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for place, name in enumerate(alphabets):
                for character, drawer in itertools.product(range(CHARACTERS), range(20)):
                    file = f"{name}/character{character + 1:02d}/{character:04d}_{drawer + 1:02d}.png"
                    data = drawing(place, character, drawer, alike=name == ALIKE)
                    archive.writestr(f"{part}/{file}", data)
    return folder


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Drawings that an older program decoded would hide what this one does."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return archives(tmp_path_factory.mktemp("omniglot"), one_shot.ALPHABETS)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(omniglot, "CHARACTERS", COUNTS)


@pytest.fixture(scope="module")
def drawn(root):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(omniglot, "CHARACTERS", COUNTS)
        return draw_runs(root, side=105)


def test_each_of_ten_alphabets_has_two_runs(drawn):
    assert len(drawn) == 20
    assert drawn.names == tuple(name for name in one_shot.ALPHABETS for _ in range(2))
    assert drawn.support.shape == drawn.query.shape == (20, 20, 105, 105, 1)
    assert drawn.support.dtype == drawn.query.dtype == np.uint8
    assert drawn.answer.shape == (20, 20)


def test_a_run_is_20_characters_of_one_alphabet_by_one_drawer_and_asks_for_them_by_another(drawn):
    for name, of_support, of_query, answer in zip(
        drawn.names, drawn.support, drawn.query, drawn.answer, strict=True
    ):
        support, query = [read_back(image) for image in of_support], [read_back(image) for image in of_query]
        assert {alphabet for alphabet, _, _ in support + query} == {one_shot.ALPHABETS.index(name)}
        assert len({character for _, character, _ in support}) == 20
        (knows,), (asks,) = {drawer for _, _, drawer in support}, {drawer for _, _, drawer in query}
        assert knows != asks
        assert [support[place][1] for place in answer] == [character for _, character, _ in query]
        assert sorted(answer) == list(range(20))


def test_runs_have_characters_drawers_and_an_order_of_their_own(drawn):
    order = [tuple(read_back(image)[1] for image in images) for images in drawn.support]
    drawers = {
        (read_back(knows)[2], read_back(asks)[2])
        for knows, asks in zip(drawn.support[:, 0], drawn.query[:, 0], strict=True)
    }
    assert len(set(order)) == 20
    assert len(drawers) > 10  # of 380 pairs
    # Of the 21 characters of an alphabet a run leaves out one; which one, differs.
    assert len({(set(range(CHARACTERS)) - set(characters)).pop() for characters in order}) > 5


def test_a_seed_gives_its_own_runs(root, drawn):
    again, other = draw_runs(root, seed=0, side=105), draw_runs(root, seed=1, side=105)
    np.testing.assert_array_equal(drawn.support, again.support)
    np.testing.assert_array_equal(drawn.query, again.query)
    assert (drawn.support != other.support).any(axis=(1, 2, 3, 4)).all()
    assert (drawn.query != other.query).any(axis=(1, 2, 3, 4)).all()


def test_alphabets_and_the_number_of_runs_can_be_chosen(root):
    trials = draw_runs(root, alphabets=("Tengwar", "Ge_ez"), repeats=3, side=105)
    assert trials.names == ("Tengwar",) * 3 + ("Ge_ez",) * 3
    places = [one_shot.ALPHABETS.index(name) for name in trials.names]
    assert [read_back(images[0])[0] for images in trials.support] == places


def test_drawings_have_the_chosen_side_and_ink(root):
    bright = draw_runs(root, alphabets=("Ge_ez",), repeats=1)
    black = draw_runs(root, alphabets=("Ge_ez",), repeats=1, inverted=False, resample="nearest")
    assert bright.support.shape == black.query.shape == (1, 20, 28, 28, 1)
    assert np.median(bright.query) == 0
    assert np.median(black.query) == 255
    assert len(np.unique(bright.support)) > 2
    assert set(np.unique(black.support)) == {0, 255}


def test_no_repeats_and_no_omniglot_are_refused(root, tmp_path):
    with pytest.raises(ValueError, match="repeats is 0; expected at least 1"):
        draw_runs(root, repeats=0)
    with pytest.raises(ValueError, match="brendenlake/omniglot"):
        draw_runs(tmp_path)


def test_an_alphabet_that_is_not_there_is_named(root):
    with pytest.raises(ValueError, match="Klingon"):
        draw_runs(root, alphabets=("Ge_ez", "Klingon"))


def test_the_real_evaluation_alphabets_are_lakes_ten_and_ten_others_of_20_characters(real_data):
    with zipfile.ZipFile(real_data("omniglot") / "images_evaluation.zip") as archive:
        names = [name.split("/") for name in archive.namelist() if name.endswith(".png")]
    characters = {tuple(parts[1:3]) for parts in names if parts[0] == "images_evaluation"}
    alphabets = {alphabet for alphabet, _ in characters}
    assert len(one_shot.ALPHABETS) == len(one_shot.OTHERS) == 10
    assert {*one_shot.ALPHABETS, *one_shot.OTHERS} == alphabets
    assert all(sum(of == alphabet for of, _ in characters) >= 20 for alphabet in alphabets)


WAY = 5
SHOWN = ((2, 0, 4, 1, 3), (1, 3, 0, 4, 2), (4, 2, 3, 0, 1))
"""Which training drawing each test drawing of three official runs shows."""


def official():
    """Files of runs in Lake's layout; a training drawing k of run r has its dot at (k, r), its test at (k, 50 + r)."""
    files = {}
    for number, shown in enumerate(SHOWN):
        name = f"run{number + 1:02d}"
        lines = []
        for place, training in enumerate(shown):
            files[f"{name}/training/class{place + 1:02d}.png"] = png([(place, number)])
            files[f"{name}/test/item{place + 1:02d}.png"] = png([(training, 50 + number)])
            lines.append(f"{name}/test/item{place + 1:02d}.png {name}/training/class{training + 1:02d}.png\n")
        files[f"{name}/class_labels.txt"] = "".join(lines).encode()
    return files


def zipped(file, files):
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file


def unpacked(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def with_stubs(files):
    """The runs in a folder, with what macOS adds to an archive beside it."""
    stubs = {}
    for name in files:
        folder, _, file = name.rpartition("/")
        stubs[f"__MACOSX/all_runs/{folder}/._{file}"] = b"stub"
    return {f"all_runs/{name}": data for name, data in files.items()} | stubs


def with_twins(files):
    """The same, where the stubs have the very names of the files, and folders are entries of their own."""
    twins = {f"__MACOSX/{name}": b"stub" for name in files}
    return {"all_runs/": b"", "all_runs/run01/": b"", **twins, **with_stubs(files)}


LAYOUTS = {
    "zip": lambda tmp: zipped(tmp / "all_runs.zip", official()),
    "zip in any order": lambda tmp: zipped(tmp / "runs.zip", dict(reversed(official().items()))),
    "zip of a folder": lambda tmp: zipped(tmp / "all_runs.zip", with_twins(official())),
    "folder": lambda tmp: unpacked(tmp / "all_runs", official()),
    "folder of a folder": lambda tmp: unpacked(tmp, with_stubs(official())),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_official_runs_are_read_zipped_or_unpacked(layout, tmp_path):
    trials = read_runs(LAYOUTS[layout](tmp_path), side=105)
    assert trials.names == ("run01", "run02", "run03")
    assert trials.support.shape == trials.query.shape == (3, WAY, 105, 105, 1)
    assert trials.support.dtype == trials.query.dtype == np.uint8
    for number, shown in enumerate(SHOWN):
        for place in range(WAY):
            asked = np.argwhere(trials.query[number, place, ..., 0] == 255)
            known = np.argwhere(trials.support[number, trials.answer[number, place], ..., 0] == 255)
            np.testing.assert_array_equal(asked, [[asked[0, 0], 50 + number]])
            np.testing.assert_array_equal(known, [[asked[0, 0], number]])
        # Each test drawing is asked about once.
        assert sorted(np.argwhere(trials.query[number] == 255)[:, 1]) == sorted(shown)


def test_ink_of_official_runs_is_bright_on_black_where_it_is_inverted(tmp_path):
    file = zipped(tmp_path / "all_runs.zip", official())
    bright, black = read_runs(file, side=105), read_runs(file, side=105, inverted=False)
    assert (bright.support == 255).sum() == (bright.query == 255).sum() == 3 * WAY
    np.testing.assert_array_equal(black.support, 255 - bright.support)
    np.testing.assert_array_equal(black.query, 255 - bright.query)
    assert read_runs(file).support.shape == (3, WAY, 28, 28, 1)


def without(name):
    files = official()
    del files[name]
    return files


@pytest.mark.parametrize("missing", ["run02/training/class04.png", "run02/test/item04.png"])
def test_a_missing_drawing_is_named_with_the_answers_that_name_it(missing, tmp_path):
    for place in zipped(tmp_path / "a.zip", without(missing)), unpacked(tmp_path / "b", without(missing)):
        with pytest.raises(ValueError, match=rf"run02/class_labels\.txt names .*{missing}"):
            read_runs(place)


def test_a_run_without_answers_is_named(tmp_path):
    """It is neither left out, so that the mean is of fewer runs, nor told of as numbers of arrays."""
    answers = "run02/class_labels.txt"
    for files in {**official(), answers: b""}, without(answers):
        with pytest.raises(ValueError, match="run02"):
            read_runs(zipped(tmp_path / "all_runs.zip", files))


def test_a_run_that_asks_for_fewer_drawings_than_the_others_is_refused(tmp_path):
    files = official()
    files["run03/class_labels.txt"] = b"".join(files["run03/class_labels.txt"].splitlines(keepends=True)[:-1])
    with pytest.raises(ValueError, match="unequal numbers of drawings"):
        read_runs(zipped(tmp_path / "all_runs.zip", files))


def test_what_holds_no_runs_says_what_to_get(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(zipped(tmp_path / "whole.zip", official()).read_bytes()[:-100])
    no_runs = zipped(
        tmp_path / "other.zip", {"images_evaluation/ULOG/character01/0001_01.png": png([(0, 0)])}
    )
    for place in tmp_path / "empty", no_runs:
        with pytest.raises(ValueError, match=r"no run .* give the all_runs\.zip of .*brendenlake/omniglot"):
            read_runs(place)
    for place in tmp_path / "broken.zip", tmp_path / "gone":
        with pytest.raises(ValueError, match=r"neither a folder nor a zip file: give all_runs\.zip"):
            read_runs(place)


def trials_of(answer, names, way=20):
    """Runs whose support drawing k has the one pixel k, and whose queries have the pixel of their answer."""
    answer = np.asarray(answer)
    support = np.broadcast_to(
        np.arange(way, dtype=np.uint8)[:, None, None, None], (len(answer), way, 1, 1, 1)
    )
    return Trials(support, answer.astype(np.uint8)[..., None, None, None], answer, tuple(names))


def by_pixel(support, query):
    """Takes a query for the support drawing with its pixel."""
    return np.argmax(query[:, :, None, 0, 0, 0] == support[:, None, :, 0, 0, 0], axis=2)


def test_a_perfect_classifier_makes_no_error():
    rng = np.random.default_rng(0)
    error = judge(trials_of([rng.permutation(20) for _ in range(6)], "aabbcc"), by_pixel)
    np.testing.assert_array_equal(error.of_run, np.zeros(6))
    assert (error.mean, error.ci95) == (0, 0)
    assert error.by_name() == {"a": 0, "b": 0, "c": 0}


def test_chance_errs_in_19_of_20():
    rng = np.random.default_rng(0)
    trials = trials_of([rng.permutation(20) for _ in range(400)], ["a"] * 400)
    always = judge(trials, lambda support, query: np.zeros(query.shape[:2], int))
    np.testing.assert_allclose(always.of_run, 0.95)
    guessed = judge(trials, lambda support, query: rng.integers(0, support.shape[1], query.shape[:2]))
    # 8,000 guesses: a standard deviation of sqrt(.05 * .95 / 8000).
    assert abs(guessed.mean - 0.95) < 5 * np.sqrt(0.05 * 0.95 / 8000)
    assert 0.9 < guessed.ci95 / (1.96 * np.sqrt(0.05 * 0.95 / 8000)) < 1.1


def test_errors_are_averaged_over_runs_and_by_name():
    trials = trials_of(np.tile(np.arange(4), (4, 1)), ["b", "a", "b", "c"], way=4)
    taken = [[0, 1, 2, 3], [0, 1, 2, 0], [0, 0, 0, 0], [1, 2, 3, 3]]
    error = judge(trials, lambda support, query: np.array(taken))
    shares = [0, 1 / 4, 3 / 4, 3 / 4]
    np.testing.assert_allclose(error.of_run, shares)
    assert error.mean == pytest.approx(7 / 16)
    variance = sum((share - 7 / 16) ** 2 for share in shares) / 3
    assert error.ci95 == pytest.approx(1.96 * np.sqrt(variance) / np.sqrt(4))
    assert error.by_name() == pytest.approx({"b": 3 / 8, "a": 1 / 4, "c": 3 / 4})
    assert list(error.by_name()) == ["b", "a", "c"]


def test_a_single_run_has_no_interval():
    error = judge(trials_of([[0, 1, 2, 3]], "a", way=4), lambda support, query: np.array([[0, 1, 2, 0]]))
    assert error.mean == 0.25
    assert np.isnan(error.ci95)


def directed(one, other):
    """The mean distance of the points of one drawing from the nearest of the other."""
    total = 0.0
    for y, x in one:
        nearest = np.inf
        for v, u in other:
            nearest = min(nearest, ((y - v) ** 2 + (x - u) ** 2) ** 0.5)
        total += nearest
    return total / len(one)


def centred(image):
    """The inked pixels of a drawing, from their mean."""
    points = [(y, x) for y, row in enumerate(image[..., 0]) for x, pixel in enumerate(row) if pixel]
    middle = [sum(place) / len(points) for place in zip(*points, strict=True)]
    return [(y - middle[0], x - middle[1]) for y, x in points]


def nearest_by_loops(support, query):
    """Dubuisson and Jain's modified Hausdorff distance, eq. 6 in both directions, of centred drawings."""
    distances = [
        [
            max(directed(centred(asked), centred(known)), directed(centred(known), centred(asked)))
            for known in support
        ]
        for asked in query
    ]
    return np.argmin(distances, axis=1)


def scribbles(rng, count, side=12):
    """Random drawings with 2 to 15 inked pixels."""
    images = np.zeros((count, side, side, 1), np.uint8)
    for image in images:
        places = rng.choice(side * side, rng.integers(2, 16), replace=False)
        image[places // side, places % side] = 255
    return images


def test_modified_hausdorff_takes_the_nearest_as_plain_loops_do():
    rng = np.random.default_rng(0)
    support = np.stack([scribbles(rng, 6) for _ in range(4)])
    query = np.stack([scribbles(rng, 9) for _ in range(4)])
    got = modified_hausdorff(support, query)
    assert got.shape == (4, 9)
    np.testing.assert_array_equal(
        got, [nearest_by_loops(*drawings) for drawings in zip(support, query, strict=True)]
    )


def test_modified_hausdorff_does_not_mind_where_a_drawing_lies():
    drawings = scribbles(np.random.default_rng(1), 8)
    order = np.random.default_rng(2).permutation(8)
    canvas = np.zeros((2, 8, 40, 40, 1), np.uint8)
    canvas[0, :, :12, :12] = drawings
    canvas[1, :, 25:37, 17:29] = drawings[order]
    np.testing.assert_array_equal(modified_hausdorff(canvas[:1], canvas[1:]), [order])


def test_blank_drawings_are_answered_too():
    support, query = (
        scribbles(np.random.default_rng(0), 4)[None],
        scribbles(np.random.default_rng(1), 3)[None],
    )
    support[0, 2], query[0, 1] = 0, 0
    answers = modified_hausdorff(support, query)
    assert answers.shape == (1, 3)
    assert ((answers >= 0) & (answers < 4)).all()


def fsl_jax(*arguments):
    return CliRunner().invoke(app, ["one-shot", *map(str, arguments)])


def record_of(*arguments):
    done = fsl_jax(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_command_judges_the_baseline_on_drawn_runs(root):
    record = record_of("--root", root)
    # Only of the alphabet whose characters are alike is each drawing taken for the same one, right once in 20.
    assert record["by_name"] == pytest.approx({n: 0.95 * (n == ALIKE) for n in one_shot.ALPHABETS})
    assert record["method"] == "modified Hausdorff distance"
    assert record["runs"] == 20
    assert record["error"] == pytest.approx(0.095)
    errors = np.repeat([0.95, 0], [2, 18])
    assert record["error_ci95"] == pytest.approx(1.96 * np.std(errors, ddof=1) / np.sqrt(20))
    assert record["error_of_chance"] == pytest.approx(0.95)
    assert "seed 0" in record["rule"]


def test_the_command_can_draw_from_the_other_alphabets(tmp_path):
    root = archives(tmp_path, one_shot.OTHERS)
    record = record_of("--root", root, "--validation", "--repeats", 1, "--seed", 7)
    assert list(record["by_name"]) == list(one_shot.OTHERS)
    assert (record["runs"], record["error"]) == (10, 0)
    assert "seed 7" in record["rule"]


def test_the_table_of_the_command_has_each_alphabet_and_the_mean_with_its_interval(root):
    done = fsl_jax("--root", root)
    assert done.exit_code == 0
    for name in one_shot.ALPHABETS:
        line = next(line for line in done.stdout.splitlines() if name in line)
        assert ("95.0%" if name == ALIKE else " 0.0%") in line
    # 1.96 * sqrt(2 * 18 / 20 * 0.95^2 / 19 / 20) = 12.8 points.
    assert "mean of 20 runs" in done.stdout
    assert "9.5% ± 12.8" in done.stdout
    assert "chance errs in 95%" in done.stdout


@pytest.mark.parametrize("layout", ["zip", "folder"])
def test_the_command_judges_official_runs(layout, tmp_path):
    record = record_of("--runs", LAYOUTS[layout](tmp_path))
    # Each drawing is one dot: all are alike, and one of 5 is right.
    assert record["by_name"] == pytest.approx({"run01": 0.8, "run02": 0.8, "run03": 0.8})
    assert (record["runs"], record["error_of_chance"]) == (3, pytest.approx(0.8))
    assert "all_runs" in record["rule"]


def test_the_record_of_a_single_run_is_still_json(tmp_path):
    files = {name: data for name, data in official().items() if name.startswith("run01")}
    done = fsl_jax("--runs", zipped(tmp_path / "all_runs.zip", files), "--json")
    assert done.exit_code == 0

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(done.stdout, parse_constant=refuse)["runs"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --root, a folder of Omniglot, or --runs"),
        (["--root", "gone", "--runs", "gone.zip"], "give either --root, a folder of Omniglot, or --runs"),
        (["--root", "gone"], "no Omniglot in gone"),
        (["--runs", "gone.zip"], "gone.zip is neither a folder nor a zip file"),
        (["--runs", "gone.zip", "--validation"], "--validation, --repeats and --seed go with --root"),
        (["--root", "gone", "--views", 3], "--views are changed as in training: give the --workdir"),
        (["--runs", "gone.zip", "--seed", 1], "--validation, --repeats and --seed go with --root"),
        (["--root", "gone", "--workdir", "no_run"], "no_run"),
    ],
)
def test_wrong_input_is_one_line_on_stderr_and_status_1(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = fsl_jax(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def on_omniglot(config, root, **options):
    """Lets a run end in seconds: a narrow network, two steps, and no figures but those of two episodes."""
    config.data.update({"source": "omniglot", "root": str(root), "channels": 1, "size": 53})
    config.data.omniglot.update({"val_characters": 0, **options})
    config.model.options["filters"] = 4
    config.augment.update({"flip": False, "shift": 0})
    config.train.update({"steps": 2, "steps_per_call": 2, "log_every": 2, "save_every": 2, "devices": 1})
    config.eval.update({"every": 0, "episodes": 2, "retrieval": False})
    return config


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(omniglot, "CHARACTERS", COUNTS)
        workdir = tmp_path_factory.mktemp("run") / "lake"
        assert (
            run.train(on_omniglot(protonet.get_config("smoke"), root, resample="nearest"), workdir, []) == 0
        )
        return workdir


def test_the_command_takes_the_nearest_prototype_of_a_trained_run(root, trained):
    """Of drawings that are read as the run was trained on them."""
    record = record_of("--root", root, "--workdir", trained, "--seed", 3)
    trials = draw_runs(root, seed=3, side=53, resample="nearest")
    embed = run.embedder_of(trained).embed
    errors = {name: [] for name in one_shot.ALPHABETS}
    for name, support, query, answer in zip(
        trials.names, trials.support, trials.query, trials.answer, strict=True
    ):
        prototypes, asked = (np.asarray(embed(images), np.float64) for images in (support, query))
        squares = ((asked[:, None] - prototypes[None]) ** 2).sum(axis=2)
        errors[name].append(np.mean(np.argmin(squares, axis=1) != answer))
    assert (record["method"], record["runs"]) == ("protonet", 20)
    assert record["error"] == pytest.approx(np.mean(list(record["by_name"].values())))
    # Where characters are alike, two can be equally near.
    del record["by_name"][ALIKE], errors[ALIKE]
    assert record["by_name"] == pytest.approx({name: np.mean(of_runs) for name, of_runs in errors.items()})
    assert 0.05 < np.mean(list(errors.values())) < 0.9


def test_views_vote_with_their_probabilities(root, trained, tmp_path):
    """Views that change nothing change no answer, and those that do are others in another run's config."""
    alone, with_views = (record_of("--root", root, "--workdir", trained, "--views", n) for n in (0, 3))
    assert with_views == {**alone, "views": 3}
    moved = tmp_path / "moved"
    shutil.copytree(trained, moved)
    config = json.loads((moved / "config.json").read_text())
    config["augment"]["shift"] = 9
    (moved / "config.json").write_text(json.dumps(config))
    assert record_of("--root", root, "--workdir", moved, "--views", 3)["error"] != alone["error"]
    assert record_of("--root", root, "--workdir", moved) == alone


def test_the_command_judges_a_trained_run_on_official_runs(trained, tmp_path):
    record = record_of("--runs", LAYOUTS["zip"](tmp_path), "--workdir", trained)
    assert (record["method"], record["runs"]) == ("protonet", 3)
    assert set(record["by_name"]) == {"run01", "run02", "run03"}
    assert all(0 <= error <= 1 for error in record["by_name"].values())


def test_characters_that_may_have_been_trained_on_are_warned_of(trained, tmp_path):
    other = tmp_path / "finn"
    shutil.copytree(trained, other)
    config = json.loads((other / "config.json").read_text())
    config["data"]["omniglot"]["split_rule"] = "finn"
    (other / "config.json").write_text(json.dumps(config))
    done = fsl_jax("--runs", LAYOUTS["zip"](tmp_path), "--workdir", other)
    assert done.exit_code == 0
    assert "split rule 'finn' may have dealt characters" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files | {"run02/training/class03.png": b"no picture"}, "class03.png cannot be read"),
        (lambda files: {n.removeprefix("run01/"): d for n, d in files.items() if "run01" in n}, "is one run"),
    ],
)
def test_a_damaged_archive_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_runs(zipped(tmp_path / "all_runs.zip", change(official())))


def test_a_run_on_other_photos_is_refused(root, trained, tmp_path):
    other = tmp_path / "shop"
    shutil.copytree(trained, other)
    config = json.loads((other / "config.json").read_text())
    config["data"]["source"] = "catalogue"
    (other / "config.json").write_text(json.dumps(config))
    done = fsl_jax("--root", root, "--workdir", other)
    assert done.exit_code == 1
    assert f"{other} was trained on catalogue" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_head_of_too_few_labels_is_refused(root, tmp_path):
    config = on_omniglot(maml.get_config("smoke"), root)
    assert run.train(config, tmp_path / "maml", ["test"]) == 0
    done = fsl_jax("--root", root, "--workdir", tmp_path / "maml")
    assert done.exit_code == 1
    assert "has 5 labels, but a run has 20" in done.stderr
    assert "--config.episode.way=20" in done.stderr
