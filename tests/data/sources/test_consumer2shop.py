import pytest
from absl import logging

from fsl_jax.data.sources import consumer2shop

EVERYTHING = "train+val+test"
TITLE = "image_pair_name_1 image_pair_name_2 item_id evaluation_status\n"
PAIRS = """
img/DRESSES/Sleeveless_Dress/id_1/comsumer_01.jpg img/DRESSES/Sleeveless_Dress/id_1/shop_01.jpg id_1 train
img/DRESSES/Sleeveless_Dress/id_1/comsumer_02.jpg img/DRESSES/Sleeveless_Dress/id_1/shop_01.jpg id_1 train
img/DRESSES/Lace_Dress/id_2/comsumer_01.jpg       img/DRESSES/Lace_Dress/id_2/shop_01.jpg       id_2 val
img/TOPS/T_Shirt/id_3/comsumer_01.jpg             img/TOPS/T_Shirt/id_3/shop_01.jpg             id_3 test
img/TOPS/T_Shirt/id_3/comsumer_01.jpg             img/TOPS/T_Shirt/id_3/shop_02.jpg             id_3 test
"""


@pytest.fixture(autouse=True)
def warned(monkeypatch):
    messages = []
    monkeypatch.setattr(logging, "warning", lambda message, *values: messages.append(message % values))
    return messages


def write(root, pairs=PAIRS, count="5\n", title=TITLE):
    (root / "Eval").mkdir(exist_ok=True)
    (root / "Eval" / "list_eval_partition.txt").write_text(count + title + pairs)


@pytest.fixture
def listed(tmp_path):
    write(tmp_path)
    (tmp_path / "img").mkdir()
    return tmp_path


@pytest.fixture
def folders(tmp_path):
    for i in range(1, 6):
        place = tmp_path / "DRESSES" / "SleevelessDress" / f"{i:05d}"
        place.mkdir(parents=True)
        for name in ("comsumer01", "comsumer02", "shop01"):
            (place / f"{name}.jpg").touch()
    return tmp_path


def load(root, split=EVERYTHING, **options):
    return consumer2shop.load(root, split, **options)


def names(coded):
    return [coded.names[code] for code in coded.codes]


def test_every_photo_is_one_row_with_the_role_of_its_side(listed):
    table = load(listed)
    rows = zip(
        table.path.tolist(), names(table.label), table.split.tolist(), table.role.tolist(), strict=True
    )
    assert sorted(rows) == [
        ("img/DRESSES/Lace_Dress/id_2/comsumer_01.jpg", "id_2", "val", "query"),
        ("img/DRESSES/Lace_Dress/id_2/shop_01.jpg", "id_2", "val", "gallery"),
        ("img/DRESSES/Sleeveless_Dress/id_1/comsumer_01.jpg", "id_1", "train", "query"),
        ("img/DRESSES/Sleeveless_Dress/id_1/comsumer_02.jpg", "id_1", "train", "query"),
        ("img/DRESSES/Sleeveless_Dress/id_1/shop_01.jpg", "id_1", "train", "gallery"),
        ("img/TOPS/T_Shirt/id_3/comsumer_01.jpg", "id_3", "test", "query"),
        ("img/TOPS/T_Shirt/id_3/shop_01.jpg", "id_3", "test", "gallery"),
        ("img/TOPS/T_Shirt/id_3/shop_02.jpg", "id_3", "test", "gallery"),
    ]


def test_domain_and_levels_come_from_side_and_folders(listed):
    table = load(listed, "val+test")
    assert names(table.domain) == ["consumer", "shop", "consumer", "shop", "shop"]
    assert names(table.levels["category"]) == ["DRESSES", "DRESSES", "TOPS", "TOPS", "TOPS"]
    assert names(table.levels["subcategory"]) == ["Lace_Dress"] * 2 + ["T_Shirt"] * 3


def test_list_and_photos_may_lie_where_the_archives_put_them(listed):
    assert load(listed, "val").file(0) == listed / "img/DRESSES/Lace_Dress/id_2/comsumer_01.jpg"
    (listed / "Img").mkdir()
    (listed / "img").rename(listed / "Img" / "img")
    (listed / "Eval" / "list_eval_partition.txt").rename(listed / "list_eval_partition.txt")
    assert load(listed, "val").file(0) == listed / "Img/img/DRESSES/Lace_Dress/id_2/comsumer_01.jpg"


A = "img/TOPS/Tee/id_4/comsumer_01.jpg img/TOPS/Tee/id_4/shop_01.jpg id_4 train\n"


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (
            A + A.replace("id_4 train", "id_4 test"),
            "line 4 .*comsumer_01.jpg with id_4 train as a query, as in line 3",
        ),
        (A + A.replace(" id_4 train", " id_5 train"), "line 4 .*comsumer_01.jpg with id_4 train"),
        (
            A + A.replace("shop_01", "comsumer_01"),
            "line 4 .*comsumer_01.jpg with id_4 train as a query, as in line 3",
        ),
        (
            A + A.replace(" id_4 train", " id_4 query"),
            "line 4 .*evaluation_status such as train, val or test",
        ),
        (A + "img/TOPS/Tee/id_4/comsumer_02.jpg id_4 train\n", "line 4 .*expected 4 cells"),
        (A.replace("img/TOPS", "img"), "line 3 .*image_pair_name_1 such as img/DRESSES"),
        ("", "has no rows"),
    ],
)
def test_says_which_line_is_wrong(listed, pairs, message):
    write(listed, pairs)
    with pytest.raises(ValueError, match=message) as caught:
        load(listed)
    assert str(listed / "Eval" / "list_eval_partition.txt") in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [({"count": ""}, "line 1 .*the number of rows"), ({"title": "image item\n"}, "line 2 .*the title")],
)
def test_count_and_title_stand_before_the_pairs(listed, lines, message):
    write(listed, **lines)
    with pytest.raises(ValueError, match=message):
        load(listed)


def test_folders_without_a_list_are_labels_that_are_dealt(folders):
    parts = [load(folders, split) for split in ("train", "val", "test")]
    assert [len(part.label.names) for part in parts] == [3, 1, 1]
    assert {label for part in parts for label in part.label.names} == {
        f"DRESSES/SleevelessDress/0000{i}" for i in range(1, 6)
    }
    assert len(load(folders, "train", fractions=(1.0, 0.0, 0.0)).label.names) == 5


def test_the_name_of_a_file_says_its_side(folders):
    table = load(folders, "val")
    assert [path.rsplit("/", 1)[1] for path in table.path] == [
        "comsumer01.jpg",
        "comsumer02.jpg",
        "shop01.jpg",
    ]
    assert table.role.tolist() == ["query", "query", "gallery"]
    assert names(table.domain) == ["consumer", "consumer", "shop"]
    assert names(table.levels["category"]) == ["DRESSES"] * 3
    assert names(table.levels["subcategory"]) == ["SleevelessDress"] * 3
    assert table.file(0).is_file()


def test_equal_numbers_in_two_folders_are_two_labels(folders):
    other = folders / "DRESSES" / "LaceDress" / "00001"
    other.mkdir(parents=True)
    (other / "shop01.jpg").touch()
    assert len(load(folders).label.names) == 6


@pytest.mark.parametrize("place", ["img", "Img/img", "Img"])
def test_the_folders_may_lie_in_img(folders, tmp_path_factory, place):
    root = tmp_path_factory.mktemp("root")
    (root / place).parent.mkdir(exist_ok=True)
    folders.rename(root / place)
    assert load(root).root == root / place


def test_other_files_are_left_out_and_counted(folders, warned):
    place = folders / "DRESSES" / "SleevelessDress" / "00001"
    for name in ("._shop01.jpg", "notes.txt", "model01.jpg"):
        (place / name).touch()
    assert len(load(folders)) == 15
    assert "3 files are left out" in warned[0]
    assert [path.rsplit("/", 1)[1] for path, _ in consumer2shop.skipped(folders)] == [
        "._shop01.jpg",
        "model01.jpg",
        "notes.txt",
    ]


def test_a_list_leaves_nothing_out(listed):
    assert consumer2shop.skipped(listed) == []


def test_missing_files_say_what_to_get(listed, tmp_path_factory):
    (listed / "img").rmdir()
    with pytest.raises(ValueError, match=r"no folder img with photos in .*Consumer2ShopRetrieval"):
        load(listed)
    for root in (tmp_path_factory.mktemp("empty"), None):
        with pytest.raises(ValueError, match=r"no Eval/list_eval_partition\.txt or .*Consumer2ShopRetrieval"):
            load(root)
