"""The drawn catalogue: its bytes, its columns, its splits, and how hard it is."""

import numpy as np
import pytest

from fsl_jax.data.sources._catalogue.articles import make_article
from fsl_jax.data.sources._catalogue.describing import describe
from fsl_jax.data.sources._catalogue.drawing import draw
from fsl_jax.data.sources._catalogue.silhouettes import SILHOUETTES, silhouette
from fsl_jax.data.sources._catalogue.vocabulary import BRANDS, COLOURS, KINDS, METALS, PATTERNS
from fsl_jax.data.sources.catalogue import load

ALL = "train+val+test"
UNSEEN = BRANDS[0].name


def small(split=ALL, **options):
    return load(None, split, **{"labels": 10, "photos": 3, "size": 16, "seed": 0, **options})


def photos_of(table, label):
    return table.images[table.label.codes == table.label.names.index(label)]


def column(coded):
    return [coded.names[code] for code in coded.codes]


def stated(table, name):
    """The one value of an attribute that each row states."""
    places = [
        (j, full.split("=", 1)[1])
        for j, full in enumerate(table.attributes.names)
        if full.startswith(name + "=")
    ]
    assert (table.attributes.values[:, [j for j, _ in places]].sum(axis=1) == 1).all()
    return [places[i][1] for i in table.attributes.values[:, [j for j, _ in places]].argmax(axis=1)]


@pytest.fixture(scope="module")
def shop():
    return load("", ALL, labels=200, photos=5, size=32, seed=0)


def test_same_seed_gives_the_same_bytes_and_words():
    first, again = small(), small()
    np.testing.assert_array_equal(first.images, again.images)
    assert first.text.tolist() == again.text.tolist()
    assert first.label.names == again.label.names


def test_other_seed_gives_other_articles_and_other_photos():
    first, other = small(photos=2), small(photos=2, seed=1)
    assert first.label.names != other.label.names
    rows = min(len(first), len(other))
    assert (first.images[:rows] != other.images[:rows]).mean() > 0.5


def test_more_labels_leave_the_old_articles_as_they_were():
    few, many = small(labels=5), small(labels=30)
    for label in few.label.names:
        np.testing.assert_array_equal(photos_of(few, label), photos_of(many, label))
        old, new = (table.split[table.label.codes == table.label.names.index(label)] for table in (few, many))
        assert old.tolist() == new.tolist()


def test_photos_do_not_depend_on_the_split_that_is_asked_for():
    every, test = small(labels=25), small("test", labels=25)
    for label in test.label.names:
        np.testing.assert_array_equal(photos_of(test, label), photos_of(every, label))


def test_another_size_shows_the_same_scenes():
    large, little = small(labels=6, size=96), small(labels=6, size=32)
    shrunk = large.images.reshape(len(large), 32, 3, 32, 3, 3).mean(axis=(2, 4))
    same = np.abs(shrunk - little.images).mean(axis=(1, 2, 3))
    other = np.abs(shrunk - np.roll(little.images, 1, axis=0)).mean(axis=(1, 2, 3))
    assert same.max() < 14 < np.median(other)


def test_photos_an_article_are_one_less_to_one_more(shop):
    counts = shop.label.counts()
    assert set(counts.tolist()) == {4, 5, 6}
    assert set(small(photos=2, labels=30).label.counts().tolist()) == {2, 3}


@pytest.mark.parametrize("size", [28, 64, 224])
def test_photos_have_the_size_that_is_asked_for(size):
    table = small(labels=2, photos=2, size=size)
    assert table.images.shape[1:] == (size, size, 3)
    assert table.images.dtype == np.uint8
    assert (table.images.reshape(len(table), -1).std(axis=1) > 5).all()


def test_one_channel_is_the_luma_of_three():
    grey, colour = small(channels=1).images, small(channels=3).images
    assert grey.shape == (*colour.shape[:3], 1)
    luma = colour[..., 0] * 0.299 + colour[..., 1] * 0.587 + colour[..., 2] * 0.114
    assert np.abs(grey[..., 0] - luma).max() < 0.51


def test_no_label_is_in_two_splits_and_the_shares_are_64_12_24(shop):
    split_of = {label: set(shop.split[shop.label.codes == i]) for i, label in enumerate(shop.label.names)}
    assert all(len(splits) == 1 for splits in split_of.values())
    dealt = [next(iter(splits)) for splits in split_of.values()]
    assert {name: dealt.count(name) for name in ("train", "val", "test")} == {
        "train": 128,
        "val": 24,
        "test": 48,
    }


def test_the_unseen_brand_is_in_the_test_split_only(shop):
    splits = {"unseen": set(), "others": set()}
    for brand, split in zip(stated(shop, "brand"), shop.split, strict=True):
        splits["unseen" if brand == UNSEEN else "others"].add(str(split))
    assert splits == {"unseen": {"test"}, "others": {"train", "val", "test"}}


@pytest.mark.parametrize("brands", [2, 5, 10])
def test_as_many_brands_as_asked_for_are_seen(brands):
    found = {make_article(0, number, brands).brand.name for number in range(200)}
    assert found == {brand.name for brand in BRANDS[:brands]}


def test_the_first_nine_articles_give_something_to_train_and_to_test_on():
    for seed in range(20):
        assert {"train", "test"} <= {make_article(seed, number, 8).split for number in range(9)}


def test_levels_form_a_tree(shop):
    pairs = set(zip(column(shop.levels["category"]), column(shop.levels["subcategory"]), strict=True))
    assert len(pairs) == len({subcategory for _, subcategory in pairs}) == len(KINDS)
    assert len({category for category, _ in pairs}) == 7


def test_shop_photos_come_first_and_are_on_white(shop):
    for i in range(len(shop.label.names)):
        roles = shop.role[shop.label.codes == i].tolist()
        assert roles == sorted(roles)  # "gallery" before "query"
        assert set(roles) == {"gallery", "query"}
    assert [("shop" if role == "gallery" else "customer") for role in shop.role] == column(shop.domain)
    corner = shop.images[:, :2, :2].mean(axis=(1, 2, 3))
    assert np.median(corner[shop.role == "gallery"]) > 230 > np.percentile(corner[shop.role == "query"], 90)


def test_descriptions_name_what_the_attributes_state(shop):
    rows = zip(
        shop.text,
        *(stated(shop, name) for name in ("colour", "brand", "material", "accent", "pattern")),
        strict=True,
    )
    for text, colour, brand, material, accent, pattern in rows:
        assert colour in text
        assert brand in text
        assert material in text
        assert accent in text or pattern == "plain"
        assert "{" not in text


def test_descriptions_vary_in_their_wording():
    article = make_article(0, 0, 8)
    assert len({describe(article, seed) for seed in range(60)}) >= 8


def test_attributes_have_known_values(shop):
    assert set(stated(shop, "colour")) <= set(COLOURS)
    assert set(stated(shop, "pattern")) <= set(PATTERNS)
    for subcategory, closure in set(
        zip(column(shop.levels["subcategory"]), stated(shop, "closure"), strict=True)
    ):
        assert closure in KINDS[subcategory].closures


def test_jewellery_has_the_metal_that_it_is_made_of():
    articles = [make_article(0, number, 8) for number in range(100)]
    jewels = [article for article in articles if article.category == "jewellery"]
    assert jewels
    assert all(article.metal == article.material in METALS for article in jewels)


def test_some_articles_form_lines_that_share_all_but_the_details():
    articles = [make_article(0, number, 8) for number in range(200)]
    keys = [(article.brand.name, article.subcategory, article.colour, article.split) for article in articles]
    assert 0.1 < 1 - len(set(keys)) / len(keys) < 0.5
    assert len({tuple(article.form) for article in articles}) == len(articles)


@pytest.mark.parametrize("subcategory", sorted(KINDS))
def test_a_silhouette_fills_the_picture_and_stays_inside(subcategory):
    assert set(SILHOUETTES) == set(KINDS)
    for form in np.random.default_rng(0).random((20, 8)):
        parts = silhouette(subcategory, form).parts
        points = np.concatenate([part.points for part in parts])
        assert points.min() >= 0.029
        assert points.max() <= 0.971
        assert np.ptp(points, axis=0).max() > 0.8


def test_an_article_is_drawn_in_its_colours():
    for number in range(30):
        article = make_article(0, number, 8)
        picture = np.asarray(draw(article, 96), float)
        drawn = picture[picture[..., 3] == 255][:, :3]
        distance = np.abs(drawn[:, None] - np.stack([article.main, article.second])).mean(axis=-1).min(axis=0)
        assert distance.min() < 12, article.label


def raw_pixels(table):
    pixels = table.images.reshape(len(table), -1).astype(np.float64)
    pixels -= pixels.mean(axis=0)
    return pixels / np.linalg.norm(pixels, axis=1, keepdims=True)


def one_shot(features, codes, episodes):
    """5-way 1-shot nearest neighbour by cosine, one query a label."""
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    right = 0
    for _ in range(episodes):
        pairs = [rng.choice(rows[i], 2, replace=False) for i in rng.choice(len(rows), 5, replace=False)]
        support, query = np.array(pairs).T
        right += int(((features[query] @ features[support].T).argmax(axis=1) == np.arange(5)).sum())
    return right / episodes / 5


def test_raw_pixels_do_poorly_but_above_chance(shop):
    test = shop.select("test")
    assert 0.36 < one_shot(raw_pixels(test), test.label.codes, episodes=1000) < 0.46


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": 0}, "labels is 0; expected at least 1"),
        ({"size": 15}, "size is 15; expected at least 16"),
        ({"photos": 1}, "photos is 1; expected at least 2"),
        ({"seed": -1}, "seed is -1; expected at least 0"),
        ({"brands": 1}, "brands is 1; expected at least 2"),
        ({"brands": 11}, "brands is 11; expected at most 10"),
        ({"channels": 4}, r"channels is 4; expected 1 \(grey\) or 3 \(colour\)"),
        ({"split": "dev"}, "no photo in split 'dev'"),
    ],
)
def test_a_bad_option_is_named_with_what_was_expected(options, message):
    with pytest.raises(ValueError, match=f"catalogue: {message}") as error:
        small(**options)
    assert "\n" not in str(error.value)
