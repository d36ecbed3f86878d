import csv
import hashlib
import random
import zipfile
from collections import Counter

import numpy as np
import pytest
from absl import logging

from fsl_jax.data.prepare import prepare
from fsl_jax.data.source import skipped_by
from fsl_jax.data.sources import fashion_products

EVERYTHING = "train+val+test"
TITLE = "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName"
PUBLISHED = [
    "15970,Men,Apparel,Topwear,Shirts,Navy Blue,Fall,2011,Casual,Turtle Check Men Navy Blue Shirt",
    "39386,Men,Apparel,Bottomwear,Jeans,Blue,Summer,2012,NA,Peter England, Men Party, Blue Jeans",
    '59263,Women,Accessories,Watches,Watches,NA,,2016,Casual,"Titan Women, Silver ""Watch"""',
    '7491,Women,Apparel,Bottomwear,Shorts,Pink,Summer,2011,Sports,Nike EM Tempo 3.5" Short ',
]


@pytest.fixture(autouse=True)
def warned(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    messages = []
    monkeypatch.setattr(logging, "warning", lambda message, *values: messages.append(message % values))
    return messages


@pytest.fixture
def root(tmp_path):
    return shop(tmp_path / "shop", PUBLISHED)


def shop(root, rows, *, photos=None, title=TITLE, name="styles.csv", encoding="utf-8"):
    root.mkdir(exist_ok=True)
    (root / name).write_bytes("\r\n".join([title, *rows, ""]).encode(encoding))
    folder = root / "images"
    folder.mkdir(exist_ok=True)
    for photo in [row.split(",")[0] for row in rows] if photos is None else photos:
        (folder / f"{photo}.jpg").write_bytes(photo.encode())
    return root


def zipped(root, *, inside="images/", more=()):
    with zipfile.ZipFile(root / "images.zip", "w") as archive:
        for file in sorted((root / "images").iterdir()):
            archive.write(file, inside + file.name)
            file.unlink()
        for name in more:
            archive.writestr(name, "another")
    (root / "images").rmdir()
    return root


def rows_of(types):
    """Rows with an article type each, and ids from 1000."""
    return [
        f"{1000 + i},Men,Apparel,Topwear,{kind},Blue,Fall,2011,Casual,name" for i, kind in enumerate(types)
    ]


def load(root, split=EVERYTHING, **options):
    return fashion_products.load(root, split, **options)


def names(coded):
    return [coded.names[code] if code >= 0 else "" for code in coded.codes]


def splits(root, **options):
    table = load(root, **options)
    return dict(zip(table.path.tolist(), table.split.tolist(), strict=True))


def test_reads_the_published_layout(root):
    table = load(root)
    assert names(table.label) == ["15970", "39386", "59263", "7491"]
    assert [table.file(row) for row in range(4)] == [
        root / f"images/{name}.jpg" for name in names(table.label)
    ]
    assert list(table.levels) == ["masterCategory", "subCategory", "articleType"]
    assert names(table.levels["articleType"]) == ["Shirts", "Jeans", "Watches", "Shorts"]
    assert (table.source, table.role, table.domain) == ("fashion_products", None, None)


def test_commas_in_names_need_no_quotes(root):
    assert load(root).text.tolist() == [
        "Turtle Check Men Navy Blue Shirt",
        "Peter England, Men Party, Blue Jeans",
        'Titan Women, Silver "Watch"',
        'Nike EM Tempo 3.5" Short',
    ]


def test_a_name_in_the_middle_takes_the_surplus_cells(tmp_path):
    root = shop(tmp_path / "shop", ["1,a, b, c,Red"], title="id,productDisplayName,baseColour")
    table = load(root, levels=(), attributes="baseColour", stratify="baseColour")
    assert table.text.tolist() == ["a, b, c"]
    assert table.attributes.names == ("baseColour=Red",)


def test_empty_cells_and_na_are_unknown(root):
    got = load(root).attributes
    assert got.names == (
        "gender=Men",
        "gender=Women",
        "baseColour=Blue",
        "baseColour=Navy Blue",
        "baseColour=Pink",
        "season=Fall",
        "season=Summer",
        "usage=Casual",
        "usage=Sports",
    )
    assert got.values.astype(int).tolist() == [
        [1, 0, 0, 1, 0, 1, 0, 1, 0],
        [1, 0, 1, 0, 0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 1, 0],
        [0, 1, 0, 0, 1, 0, 1, 0, 1],
    ]
    assert got.known.astype(int).tolist() == [
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
    assert names(load(root, levels="baseColour").levels["baseColour"]) == ["Navy Blue", "Blue", "", "Pink"]
    assert load(root, attributes=()).attributes is None


def test_rows_without_a_photo_are_left_out_counted_and_listed(tmp_path, warned):
    root = shop(tmp_path / "shop", PUBLISHED, photos=["15970", "7491"])
    assert names(load(root).label) == ["15970", "7491"]
    assert warned == [
        "fashion_products: 2 files are left out (2 without a photo), such as 39386.jpg",
    ]
    assert skipped_by("fashion_products", root, {"min_photos": 1}) == [
        ("39386.jpg", "without a photo"),
        ("59263.jpg", "without a photo"),
    ]


def test_any_column_can_be_the_label_and_rows_without_it_are_left_out(root, warned):
    table = load(root, label="baseColour")
    assert names(table.label) == ["Blue", "Navy Blue", "Pink"]
    assert "(1 no baseColour), such as 59263.jpg" in warned[0]
    assert skipped_by("fashion_products", root, {"label": "baseColour"}) == [("59263.jpg", "no baseColour")]


def test_labels_with_too_few_photos_are_dropped(tmp_path):
    root = shop(tmp_path / "shop", rows_of(["Shirts"] * 5 + ["Ties"] * 2))
    options = {"label": "articleType", "split_rule": "labels", "fractions": (1, 0, 0)}
    assert load(root, **options, min_photos=3).label.names == ("Shirts",)
    with pytest.raises(ValueError, match="no label has more than 5"):
        load(root, **options, min_photos=6)


def test_articles_of_labels_with_too_few_photos_in_a_split_are_dropped_there(tmp_path):
    root = shop(tmp_path / "shop", rows_of(["Shirts"] * 40 + ["Ties"] * 10))
    options = {"label": "articleType", "min_photos": 5}
    assert [load(root, split, **options).label.names for split in ("train", "val", "test")] == [
        ("Shirts", "Ties"),
        ("Shirts",),
        ("Shirts",),
    ]


@pytest.mark.parametrize("name", ["styles.csv", "labels.csv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_other_names_and_encodings_of_the_csv_file(tmp_path, name, encoding):
    rows = ["1,Women,Apparel,Dress,Dresses,Red,Fall,2011,Casual,Été"]
    assert load(shop(tmp_path / "shop", rows, name=name, encoding=encoding)).text.tolist() == ["Été"]


def test_styles_csv_goes_first(root):
    (root / "labels.csv").write_text(TITLE)
    assert len(load(root)) == 4


@pytest.mark.parametrize("inside", ["images/", "", "myntradataset/images/", "a\\images\\"])
def test_an_archive_gives_the_same_table_as_a_folder(root, inside):
    plain = load(root)
    content = [plain.file(row).read_bytes() for row in range(4)]
    packed = load(
        zipped(root, inside=inside, more=("__MACOSX/images/15970.jpg", "images/._7491.jpg", "a.txt"))
    )
    assert packed.path.tolist() == plain.path.tolist()
    assert [packed.file(row).read_bytes() for row in range(4)] == content
    assert packed.split.tolist() == plain.split.tolist()


def test_only_photos_of_rows_are_unpacked_and_of_copies_the_outer_one(root):
    zipped(root, inside="b/", more=("a/b/15970.jpg", "images/4.jpg"))
    table = load(root, label="baseColour")
    assert sorted(file.name for file in table.root.iterdir()) == [
        "15970.jpg",
        "39386.jpg",
        "59263.jpg",
        "7491.jpg",
    ]
    assert (table.root / "15970.jpg").read_text() == "15970"
    assert load(root).root == table.root


def test_an_unpacked_folder_goes_before_the_archive(root, tmp_path):
    zipped(root)
    shop(root, PUBLISHED, photos=["15970"])
    assert load(root).path.tolist() == ["15970.jpg"]
    assert not (tmp_path / "cache").exists()


def test_photos_may_lie_in_a_folder_of_the_folder(root):
    (root / "images").rename(root / "inner")
    (root / "images").mkdir()
    (root / "inner").rename(root / "images" / "images")
    assert load(root).file(0).read_bytes() == b"15970"


def test_articles_are_dealt_by_share_within_each_value(tmp_path):
    root = shop(tmp_path / "shop", rows_of(["Shirts"] * 100 + ["Ties"] * 20 + ["Belts"] * 7))
    table = load(root)
    kinds = names(table.levels["articleType"])
    counts = Counter(zip(kinds, table.split.tolist(), strict=True))
    assert [counts["Shirts", split] for split in ("train", "val", "test")] == [70, 15, 15]
    assert [counts["Ties", split] for split in ("train", "val", "test")] == [14, 3, 3]
    assert counts["Belts", "train"] in (4, 5)
    assert {counts["Belts", "val"], counts["Belts", "test"]} <= {1, 2}


def test_many_small_values_keep_the_shares_of_the_whole(tmp_path):
    sizes = [2, 3, 4, 5, 6, 9] * 20
    types = [f"kind{i}" for i, size in enumerate(sizes) for _ in range(size)]
    table = load(shop(tmp_path / "shop", rows_of(types)))
    shares = [(table.split == split).mean() for split in ("train", "val", "test")]
    np.testing.assert_allclose(shares, (0.7, 0.15, 0.15), atol=0.005)
    train = load(tmp_path / "shop", "train")
    assert set(names(train.levels["articleType"])) == set(types)


@pytest.mark.parametrize("fractions", [(0.7, 0.15, 0.15), (0.1, 0.45, 0.45)])
def test_the_first_photo_of_each_value_is_in_train(tmp_path, fractions):
    types = [f"kind{i}" for i in range(30)] + ["pair", "pair", "many"] + ["many"] * 4
    table = load(shop(tmp_path / "shop", rows_of(types)), "train", fractions=fractions)
    assert set(names(table.levels["articleType"])) == set(types)


def test_the_dealing_depends_on_the_seed_and_not_on_order_or_label(tmp_path):
    rows = rows_of(["Shirts", "Ties", "Belts"] * 30)
    root = shop(tmp_path / "shop", rows)
    first = splits(root)
    shop(root, random.Random(0).sample(rows, len(rows)))
    assert splits(root) == first
    assert splits(root, label="articleType") == first
    assert splits(root, split_seed=1) != first
    assert splits(root, stratify="season") != first


def test_the_dealing_is_that_of_digests(tmp_path):
    root = shop(tmp_path / "shop", rows_of(["Shirts"] * 20))
    order = sorted(
        range(1000, 1020), key=lambda i: hashlib.blake2b(f"3/{i}".encode(), digest_size=8).digest()
    )
    got = splits(root, split_seed=3)
    assert [got[f"{i}.jpg"] for i in order] == ["train"] * 14 + ["val"] * 3 + ["test"] * 3


def test_labels_are_dealt_whole(tmp_path):
    root = shop(tmp_path / "shop", rows_of([f"kind{i % 10}" for i in range(50)]))
    options = {"label": "articleType", "split_rule": "labels", "fractions": (0.6, 0.2, 0.2)}
    dealt = [set(load(root, split, **options).label.names) for split in ("train", "val", "test")]
    assert [len(labels) for labels in dealt] == [6, 2, 2]
    assert len(set.union(*dealt)) == 10
    assert len(load(root, "test", split_rule="labels")) in (7, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"label": "articletype"},
            r"label has 'articletype', which is no column of .*did you mean 'articleType'",
        ),
        ({"levels": ["subcategory"]}, "levels has 'subcategory'.*did you mean 'subCategory'"),
        ({"attributes": "baseColor"}, "attributes has 'baseColor'.*did you mean 'baseColour'"),
        ({"stratify": "kind"}, "stratify has 'kind', which is no column"),
        ({"fractions": (0.7, 0.2, 0.2)}, "three shares"),
        ({"fractions": (1.2, -0.1, -0.1)}, "three shares"),
        ({"fractions": 0.7}, "three shares"),
        ({"split_rule": "photos"}, "split_rule is 'photos'; expected one of articles, labels"),
        ({"min_photos": 2}, "min_photos is 2, and no label has more than 1"),
    ],
)
def test_options_that_are_not_allowed_are_named(root, options, message):
    with pytest.raises(ValueError, match=message):
        load(root, **options)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*PUBLISHED, PUBLISHED[1]], "line 6 is .*expected another id than in line 3: remove one"),
        (["15970,Men,Apparel"], "line 2 has 3 cells; expected 10: id,gender"),
        ([PUBLISHED[0], ",Men,a,b,c,d,e,f,g,h"], "line 3 is .*expected an id"),
        (
            [PUBLISHED[0].replace("Turtle", '"Turtle'), *PUBLISHED[1:]],
            "line 2 opens a quote that it does not close",
        ),
        ([], "has no rows"),
    ],
)
def test_lines_that_are_not_as_published_are_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message) as caught:
        load(shop(tmp_path / "shop", rows, photos=["15970"]))
    assert "styles.csv" in str(caught.value)


def test_line_breaks_in_quotes_do_not_shift_the_lines_of_messages(tmp_path):
    rows = [PUBLISHED[0].replace("Turtle Check", '"Turtle\r\nCheck') + '"', PUBLISHED[1], "", PUBLISHED[1]]
    with pytest.raises(ValueError, match=r"line 6 is .*another id than in line 4"):
        load(shop(tmp_path / "shop", rows))


def test_other_titles_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no column 'id'; known: ident, name"):
        load(shop(tmp_path / "a", ["1,x"], title="ident,name"))
    with pytest.raises(ValueError, match="line 2 has 3 cells; expected 2"):
        load(shop(tmp_path / "b", ["1,x,y"], title="id,articleType"))


def test_what_is_missing_is_named_with_where_to_get_it(tmp_path, root):
    for place, message in {None: "needs a root folder", tmp_path: "no styles.csv or labels.csv"}.items():
        with pytest.raises(ValueError, match=f"{message}.*kaggle.com"):
            load(place)
    zipped(root)
    (root / "images.zip").unlink()
    with pytest.raises(ValueError, match=r"no images/ and no images.zip in .*kaggle.com"):
        load(root)
    (root / "images").mkdir()
    with pytest.raises(ValueError, match=r"images has no photo of the 4 rows of .*such as 15970.jpg"):
        load(root)


def test_a_label_that_no_row_has_is_refused(tmp_path):
    with pytest.raises(ValueError, match="usage is unknown in every row with a photo"):
        load(shop(tmp_path / "shop", [PUBLISHED[1]]), label="usage")


def test_a_damaged_archive_is_refused(root):
    zipped(root)
    (root / "images.zip").write_bytes((root / "images.zip").read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"images.zip is no whole zip file"):
        load(root)


def test_a_disk_that_cannot_be_written_says_that_a_folder_avoids_it(root, tmp_path):
    zipped(root)
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(OSError, match=r"or unpack it to a folder images/ beside the csv file"):
        load(root)


def test_preparing_unpacks_and_counts(tmp_path):
    root = zipped(shop(tmp_path / "shop", PUBLISHED, photos=["15970", "7491"]))
    line = prepare("fashion_products", root, {})
    unpacked = next((tmp_path / "cache/fsl_jax/unpacked").iterdir())
    assert line == (
        f"fashion_products: 2 photos of 2 articles in {unpacked}; 2 rows of the csv file have no photo"
    )
    with pytest.raises(ValueError, match="needs a root folder; get Fashion Product Images"):
        prepare("fashion_products", None, {})


def test_the_real_set_agrees_with_a_plain_reader(real_data, monkeypatch):
    root = real_data("fashion_small")
    unpacked, every = fashion_products.unpacked, 441

    def some_unpacked(archive, wanted, **options):
        return unpacked(archive, dict(list(wanted.items())[::every]), **options)

    monkeypatch.setattr(fashion_products, "unpacked", some_unpacked)
    with (root / "styles.csv").open(encoding="utf-8", newline="") as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    table = load(root)
    assert len(rows) == 44_446
    assert len(table) == len(table.label.names) == 44_072
    assert len(fashion_products.skipped(root)) == 374
    counts = np.array([(table.split == split).sum() for split in ("train", "val", "test")])
    np.testing.assert_allclose(counts / len(table), (0.7, 0.15, 0.15), atol=0.001)
    for row in range(0, len(table), every):
        expected = rows[table.label.names[table.label.codes[row]]]
        assert table.path[row] == f"{expected['id']}.jpg"
        assert table.text[row] == expected["productDisplayName"].strip()
        for name, level in table.levels.items():
            assert names(level.take(np.array([row]))) == [expected[name]]
        stated = {table.attributes.names[j] for j in table.attributes.values[row].nonzero()[0]}
        groups = ("gender", "baseColour", "season", "usage")
        assert stated == {f"{name}={expected[name]}" for name in groups if expected[name] not in ("", "NA")}
    with zipfile.ZipFile(root / "images.zip") as archive:
        for file in table.root.iterdir():
            assert file.read_bytes() == archive.read(f"images/{file.name}")
    assert len(list(table.root.iterdir())) == 100
