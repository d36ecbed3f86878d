import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from fsl_jax.data.sources import omniglot

COUNTS = {"images_background": 6, "images_evaluation": 4}


def drawing(alphabet, character, drawer):
    """Makes a drawing as the set has them: 105 pixels, 1 bit, ink black; its bar tells it from the others."""
    ink = np.ones((105, 105), bool)
    ink[: 20 + drawer, 10 * alphabet + 5 * character : 10 * alphabet + 5 * character + 8] = False
    return ink


def entries(part):
    """Gives (path, PNG bytes) of a part with two alphabets."""
    for number in range(COUNTS[part]):
        alphabet, character = divmod(number, COUNTS[part] // 2)
        for drawer in range(20):
            stream = io.BytesIO()
            Image.fromarray(drawing(alphabet, character, drawer)).save(stream, "PNG")
            folder = f"{part[7:]}_alphabet{alphabet}/character{character + 1:02d}"
            yield f"{part}/{folder}/{number:04d}_{drawer + 1:02d}.png", stream.getvalue()


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    root = tmp_path_factory.mktemp("omniglot")
    for part in COUNTS:
        with zipfile.ZipFile(root / f"{part}.zip", "w") as archive:
            for name, data in entries(part):
                archive.writestr(name, data)
            archive.writestr(f"__MACOSX/{part}/._junk.png", b"")
    return root


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(omniglot, "CHARACTERS", COUNTS)
    monkeypatch.setattr(omniglot, "SHUFFLED", {"finn": (5, 2, 3), "maml_plus": (6, 1, 3)})


def load(root, split="train+val+test", **options):
    return omniglot.load(root, split, **{"val_characters": 2} | options)


def labels_of(root, split, **options):
    return set(load(root, split, **options).label.names)


def test_lake_trains_on_background_and_tests_on_evaluation_alphabets(archives):
    train, val, test = (labels_of(archives, split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (4, 2, 4)
    assert all(label.startswith("background") for label in train | val)
    assert all(label.startswith("evaluation") for label in test)
    assert not train & val
    assert labels_of(archives, "train+val") == train | val


def test_lake_without_validation_trains_on_all_of_the_background(archives):
    assert len(labels_of(archives, "train", val_characters=0)) == 6
    with pytest.raises(ValueError, match="no photo in split 'val'"):
        load(archives, "val", val_characters=0)


@pytest.mark.parametrize(("rule", "sizes"), [("finn", (5, 2, 3)), ("maml_plus", (6, 1, 3))])
def test_shuffled_rules_deal_all_characters_by_their_seed(archives, rule, sizes):
    parts = [labels_of(archives, split, split_rule=rule) for split in ("train", "val", "test")]
    assert tuple(map(len, parts)) == sizes
    assert len(set.union(*parts)) == 10
    assert parts[0] == labels_of(archives, "train", split_rule=rule, split_seed=0)
    assert any(
        parts[0] != labels_of(archives, "train", split_rule=rule, split_seed=seed) for seed in (1, 2, 3)
    )


def test_images_are_bright_ink_on_black_and_can_be_had_as_drawn(archives):
    inverted, drawn = load(archives), load(archives, inverted=False)
    assert inverted.images.shape == (200, 28, 28, 1)
    assert inverted.images.dtype == np.uint8
    assert inverted.images[0, -1, -1, 0] == 0
    assert inverted.images.max() == 255
    np.testing.assert_array_equal(inverted.images, 255 - drawn.images)


def test_antialiasing_is_lanczos_on_grey_levels(archives):
    ink = Image.fromarray(drawing(0, 0, 0)).convert("L").resize((28, 28), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(load(archives, inverted=False).images[0, ..., 0], np.asarray(ink))


def test_nearest_is_what_pillow_does_with_one_bit_whatever_filter_is_named(archives):
    ink = Image.fromarray(drawing(0, 0, 0)).resize((28, 28), Image.Resampling.LANCZOS)
    images = load(archives, inverted=False, resample="nearest").images
    np.testing.assert_array_equal(images[0, ..., 0] > 0, np.asarray(ink))


def test_centred_drawings_have_the_middle_of_their_ink_in_the_middle(archives):
    plain, centred = (load(archives, side=105, inverted=False, centred=c).images for c in (False, True))
    for before, after in zip(plain[..., 0], centred[..., 0], strict=True):
        ink, moved = np.argwhere(before == 0), np.argwhere(after == 0)
        # Moved by whole pixels; all of these drawings still fit.
        np.testing.assert_array_equal(moved - moved[0], ink - ink[0])
        assert np.abs(moved.mean(axis=0) - 52).max() <= 0.5
    assert (plain != centred).any()


def test_rotations_are_labels_of_their_own_in_the_split_of_their_character(archives):
    table = load(archives, "train", rotations=True)
    plain = load(archives, "train")
    assert len(table.label.names) == 4 * len(plain.label.names)
    name = plain.label.names[0]
    upright = plain.images[plain.label.codes == 0]
    for turn in range(4):
        rows = table.label.codes == table.label.names.index(f"{name}/rot{90 * turn:03d}")
        np.testing.assert_array_equal(table.images[rows], np.rot90(upright, turn, axes=(1, 2)))


def test_quarter_turns_are_anticlockwise_as_pillows(archives):
    table = load(archives, "test", rotations=True)
    names = table.label.names
    upright = Image.fromarray(table.images[table.label.codes == 0][0, ..., 0])
    turned = table.images[table.label.codes == names.index(names[0].replace("rot000", "rot090"))][0, ..., 0]
    np.testing.assert_array_equal(turned, np.asarray(upright.rotate(90)))


@pytest.fixture
def lists(tmp_path):
    """Lists in the released format, with a rotation a label."""
    chosen = {
        "train": ["background_alphabet0/character01/rot000", "background_alphabet0/character01/rot180"],
        "val": ["background_alphabet1/character02/rot090"],
        "test": ["evaluation_alphabet0/character01/rot000"],
    }
    for split, labels in chosen.items():
        (tmp_path / f"vinyals_{split}.txt").write_text("\n".join(labels) + "\n")
    return tmp_path


def test_vinyals_takes_labels_and_rotations_from_the_lists(archives, lists):
    assert labels_of(archives, "train", split_rule="vinyals", lists=lists) == {
        "background_alphabet0/character01/rot000",
        "background_alphabet0/character01/rot180",
    }
    unrotated = load(archives, split_rule="vinyals", lists=lists, rotations=False)
    assert all(name.endswith("/rot000") for name in unrotated.label.names)
    with pytest.raises(ValueError, match=r"no .*vinyals_train\.txt"):
        load(archives, split_rule="vinyals")


def test_a_listed_label_that_does_not_exist_is_named(archives, lists):
    (lists / "vinyals_val.txt").write_text("Klingon/character01/rot000\n")
    with pytest.raises(ValueError, match="'Klingon/character01/rot000' of the lists"):
        load(archives, split_rule="vinyals", lists=lists)


def test_alphabets_are_the_coarse_level(archives):
    table = load(archives, "test")
    alphabet = table.levels["alphabet"]
    for label, code in zip(table.label.codes, alphabet.codes, strict=True):
        assert table.label.names[label].startswith(alphabet.names[code] + "/")


def test_unpacked_folders_and_a_subfolder_read_the_same(archives, tmp_path):
    for part in COUNTS:
        with zipfile.ZipFile(archives / f"{part}.zip") as archive:
            archive.extractall(tmp_path / "omniglot")
    np.testing.assert_array_equal(load(tmp_path).images, load(archives).images)


def test_an_incomplete_archive_is_refused_with_the_published_count(archives, tmp_path):
    for part in COUNTS:
        with zipfile.ZipFile(archives / f"{part}.zip") as archive:
            archive.extractall(tmp_path)
    next((tmp_path / "images_evaluation").glob("*/*/*_07.png")).unlink()
    with pytest.raises(ValueError, match="19 drawings; expected 20"):
        load(tmp_path)


def test_missing_files_say_what_to_get(tmp_path):
    with pytest.raises(ValueError, match="brendenlake/omniglot"):
        load(tmp_path)
    with pytest.raises(ValueError, match="needs a root"):
        load(None)
    (tmp_path / "images_background").mkdir()
    with pytest.raises(ValueError, match="0 characters; expected 6"):
        load(tmp_path)


@pytest.mark.parametrize(
    "options",
    [{"split_rule": "ravi"}, {"val_characters": 964}, {"side": 0}, {"resample": "cubic"}],
)
def test_refuses_options_that_do_not_exist(archives, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
        load(archives, **options)


def test_the_real_set_has_the_published_counts(real_data, monkeypatch):
    monkeypatch.setattr(omniglot, "CHARACTERS", {"images_background": 964, "images_evaluation": 659})
    root = real_data("omniglot")
    table = omniglot.load(root, "train+val+test", split_rule="vinyals")
    by_split = {
        split: len(np.unique(table.label.codes[table.split == split])) for split in ("train", "val", "test")
    }
    assert by_split == {"train": 4112, "val": 688, "test": 1692}
    assert (table.label.counts() == 20).all()
    assert len(table.levels["alphabet"].names) == 50


def alphabets_of(root, split, **options):
    return {label.split("/")[0] for label in labels_of(root, split, **options)}


def test_training_and_validation_can_be_of_some_background_alphabets(archives):
    one = {"alphabets": ("background_alphabet1",), "val_characters": 1}
    train, val = labels_of(archives, "train", **one), labels_of(archives, "val", **one)
    assert (len(train), len(val)) == (2, 1)
    assert train | val == {f"background_alphabet1/character{number:02d}" for number in (1, 2, 3)}
    assert labels_of(archives, "test", **one) == labels_of(archives, "test")
    assert len(labels_of(archives, "train", rotations=True, **one)) == 8


def test_no_alphabets_are_all_of_the_background(archives):
    both = ("background_alphabet0", "background_alphabet1")
    for split in ("train", "val", "test"):
        assert labels_of(archives, split, alphabets=both) == labels_of(archives, split)
        assert labels_of(archives, split, alphabets=()) == labels_of(archives, split)
    assert alphabets_of(archives, "train+val") == set(both)


def test_validation_must_leave_characters_of_the_alphabets_for_training(archives):
    one = {"alphabets": ("background_alphabet0",)}
    assert len(labels_of(archives, "train", val_characters=2, **one)) == 1
    with pytest.raises(ValueError, match=r"have 3 characters, of which val_characters=3 .* lower it"):
        load(archives, val_characters=3, **one)


@pytest.mark.parametrize("alphabet", ["background_alphabt1", "evaluation_alphabet0"])
def test_an_alphabet_that_is_not_of_the_background_is_named(archives, alphabet):
    known = "background_alphabet0, background_alphabet1"
    with pytest.raises(ValueError, match=f"no alphabet '{alphabet}' in images_background; .*{known}"):
        load(archives, alphabets=("background_alphabet0", alphabet))


@pytest.mark.parametrize("rule", ["finn", "maml_plus", "vinyals"])
def test_only_lakes_rule_deals_by_alphabet(archives, lists, rule):
    with pytest.raises(ValueError, match=f"of split_rule 'lake', .* not of '{rule}'"):
        load(archives, split_rule=rule, lists=lists, alphabets=("background_alphabet0",))


@pytest.mark.parametrize(("name", "characters"), [("small1", 136), ("small2", 156)])
def test_the_real_background_has_the_five_alphabets_of_a_minimal_set(real_data, name, characters):
    with zipfile.ZipFile(real_data("omniglot") / "images_background.zip") as archive:
        files = [entry.split("/") for entry in archive.namelist() if entry.endswith(".png")]
    there = {tuple(parts[1:3]) for parts in files if parts[0] == "images_background"}
    assert len(omniglot.MINIMAL[name]) == 5
    assert set(omniglot.MINIMAL[name]) <= {alphabet for alphabet, _ in there}
    assert sum(alphabet in omniglot.MINIMAL[name] for alphabet, _ in there) == characters


def test_archives_are_decoded_once(archives, monkeypatch):
    first = load(archives)
    monkeypatch.setattr(omniglot, "read_drawing", lambda *_, **__: pytest.fail("decoded again"))
    again = load(archives)
    assert again.label.names == first.label.names
    np.testing.assert_array_equal(again.images, first.images)
    np.testing.assert_array_equal(again.label.codes, first.label.codes)


@pytest.mark.parametrize("options", [{"side": 20}, {"centred": True}, {"resample": "nearest"}])
def test_what_is_kept_is_of_the_way_drawings_are_made(archives, tmp_path, monkeypatch, options):
    kept = load(archives).images
    found = load(archives, **options).images
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    np.testing.assert_array_equal(found, load(archives, **options).images)
    assert found.shape != kept.shape or (found != kept).any()


def test_an_archive_that_changes_is_decoded_anew(archives, tmp_path):
    first = load(archives)
    for part in COUNTS:
        with zipfile.ZipFile(tmp_path / f"{part}.zip", "w") as archive:
            for name, data in entries(part):
                other = io.BytesIO()
                Image.open(io.BytesIO(data)).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(other, "PNG")
                archive.writestr(name, other.getvalue())
    turned = load(tmp_path)
    assert turned.label.names == first.label.names
    assert (turned.images != first.images).any()


@pytest.mark.parametrize("damage", [b"", b"PK no archive"])
def test_a_damaged_cache_file_is_made_anew(archives, tmp_path, damage):
    first = load(archives)
    files = sorted((tmp_path / "cache").rglob("*.npz"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(damage or file.read_bytes()[:-100])
    np.testing.assert_array_equal(load(archives).images, first.images)


def test_a_cache_that_cannot_be_written_costs_time_alone(archives, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(load(archives)) == 200


def test_prepare_reads_every_byte_although_drawings_are_kept(archives, tmp_path):
    for part in COUNTS:
        (tmp_path / f"{part}.zip").write_bytes((archives / f"{part}.zip").read_bytes())
    assert "10 characters" in omniglot.prepare(tmp_path)
    damaged = bytearray((tmp_path / "images_background.zip").read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 50] = bytes(50)
    (tmp_path / "images_background.zip").write_bytes(damaged)
    with pytest.raises(
        ValueError, match=r"images_background.zip is damaged at images_background/.*remove it"
    ):
        omniglot.prepare(tmp_path)


def test_large_drawings_are_not_kept(archives, tmp_path):
    load(archives, side=omniglot.MOST_KEPT + 1)
    assert not (tmp_path / "cache").exists()
