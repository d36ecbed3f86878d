"""From the config's data section to a table: enough photos, readable ones, resident or not."""

import numpy as np
import pytest
from PIL import Image

from fsl_jax.config import base_config
from fsl_jax.data.load import load_split


@pytest.fixture
def config(tmp_path):
    for label, photos in {"boot": 3, "coat": 1, "dress": 2}.items():
        (tmp_path / "shop" / label).mkdir(parents=True)
        for photo in range(photos):
            array = np.random.default_rng(photo).integers(0, 256, (20, 10, 3), dtype=np.uint8)
            Image.fromarray(array).save(tmp_path / "shop" / label / f"{photo}.png")
    section = base_config().data
    section.update({"source": "image_folder", "root": str(tmp_path / "shop"), "size": 8})
    section.image_folder.fractions = (1.0, 0.0, 0.0)
    return section


def test_photos_that_fit_are_read_and_others_stay_files(config):
    resident = load_split(config, "train")
    assert resident.images.shape == (6, 8, 8, 3)
    config.resident_gb = 1e-9
    assert load_split(config, "train").images is None


def test_labels_with_too_few_photos_are_dropped(config):
    config.min_photos = 2
    assert load_split(config, "train").label.names == ("boot", "dress")


def test_nothing_left_says_what_there_is(config):
    config.min_photos = 4
    with pytest.raises(
        ValueError, match=r"no label of image_folder has 4 photos.*the most that a label has is 3"
    ):
        load_split(config, "train")


@pytest.mark.parametrize("gigabytes", [1.0, 1e-9])
def test_broken_photos_are_found_at_load_time_and_refused_or_dropped(
    config, tmp_path, monkeypatch, gigabytes
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "shop" / "coat" / "0.png").write_bytes(b"no photo")
    config.resident_gb = gigabytes
    with pytest.raises(
        ValueError, match=r"1 of 6 photos cannot be read: .*coat.0.png.*config.data.unreadable=drop"
    ):
        load_split(config, "train")
    config.unreadable = "drop"
    assert load_split(config, "train").label.names == ("boot", "dress")


def test_an_unknown_option_of_a_source_is_named(config):
    with config.unlocked():
        config.image_folder.fraction = 0.5
    with pytest.raises(ValueError, match="no option 'fraction'"):
        load_split(config, "train")
