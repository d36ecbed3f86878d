import pytest

from fsl_jax.data.sources import inshop

EVERYTHING = "train+val+test"
LIST = """10
image_name item_id evaluation_status
img/WOMEN/Dresses/id_00000002/02_1_front.jpg   id_00000002   train
img/WOMEN/Dresses/id_00000002/02_2_side.jpg    id_00000002   train
img/WOMEN/Dresses/id_00000003/01_1_front.jpg   id_00000003   train
img/MEN/Denim/id_00000080/01_1_front.jpg       id_00000080   train
img/MEN/Denim/id_00000081/01_1_front.jpg       id_00000081   train
img/MEN/Denim/id_00000082/01_1_front.jpg       id_00000082   query
img/MEN/Denim/id_00000082/02_1_front.jpg       id_00000082   query
img/MEN/Denim/id_00000082/02_3_back.jpg        id_00000082   gallery
img/WOMEN/Dresses/id_00000007/01_3_back.jpg    id_00000007   gallery
img/WOMEN/Dresses/id_00000007/01_1_front.jpg   id_00000007   query
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "Eval").mkdir()
    (tmp_path / "Eval" / "list_eval_partition.txt").write_text(LIST)
    (tmp_path / "img").mkdir()
    return tmp_path


def load(root, split=EVERYTHING, **options):
    return inshop.load(root, split, **{"check_counts": False} | options)


def names(coded):
    return [coded.names[code] if code >= 0 else "" for code in coded.codes]


def test_query_and_gallery_photos_are_the_test_split(root):
    table = load(root, "test")
    assert list(zip(names(table.label), table.role.tolist(), table.path.tolist(), strict=True)) == [
        ("id_00000007", "gallery", "img/WOMEN/Dresses/id_00000007/01_3_back.jpg"),
        ("id_00000007", "query", "img/WOMEN/Dresses/id_00000007/01_1_front.jpg"),
        ("id_00000082", "query", "img/MEN/Denim/id_00000082/01_1_front.jpg"),
        ("id_00000082", "query", "img/MEN/Denim/id_00000082/02_1_front.jpg"),
        ("id_00000082", "gallery", "img/MEN/Denim/id_00000082/02_3_back.jpg"),
    ]


def test_levels_are_the_folders_of_the_photo(root):
    table = load(root, "test")
    assert names(table.levels["department"]) == ["WOMEN", "WOMEN", "MEN", "MEN", "MEN"]
    assert names(table.levels["category"]) == ["Dresses", "Dresses", "Denim", "Denim", "Denim"]


def test_whole_training_items_are_held_out_and_have_no_roles(root):
    train, val = load(root, "train", val_fraction=0.25), load(root, "val", val_fraction=0.25)
    assert (len(train.label.names), len(val.label.names)) == (3, 1)
    assert {*train.label.names, *val.label.names} == {
        "id_00000002",
        "id_00000003",
        "id_00000080",
        "id_00000081",
    }
    assert len(train) + len(val) == 5
    assert {*train.role, *val.role} == {""}


def test_the_held_out_items_depend_on_the_seed_alone(root):
    drawn = {seed: load(root, "val", val_fraction=0.25, split_seed=seed).label.names for seed in range(8)}
    assert drawn[0] == load(root, "val", val_fraction=0.25).label.names
    assert len(set(drawn.values())) > 1


def test_without_a_held_out_part_all_training_items_train(root):
    assert len(load(root, "train", val_fraction=0.0)) == 5
    with pytest.raises(ValueError, match="no photo in split 'val'"):
        load(root, "val", val_fraction=0.0)
    with pytest.raises(ValueError, match="val_fraction is 1"):
        load(root, val_fraction=1)


def test_list_and_photos_may_lie_where_the_archives_put_them(root):
    assert load(root, "test").file(0) == root / "img/WOMEN/Dresses/id_00000007/01_3_back.jpg"
    (root / "Img").mkdir()
    (root / "img").rename(root / "Img" / "img")
    (root / "Eval" / "list_eval_partition.txt").rename(root / "list_eval_partition.txt")
    assert load(root, "test").file(0) == root / "Img/img/WOMEN/Dresses/id_00000007/01_3_back.jpg"


def test_a_part_of_the_set_is_read_only_when_asked_for(root):
    message = r"inshop: found 5 train photos, expected 25,882 .*check_counts=False"
    with pytest.raises(ValueError, match=message):
        inshop.load(root, EVERYTHING)
    assert len(load(root)) == 10


@pytest.mark.parametrize("what", ["train photos", "query photos", "gallery photos", "items"])
def test_every_published_count_is_checked(root, monkeypatch, what):
    whole = {"train photos": 5, "query photos": 3, "gallery photos": 2, "items": 6}
    monkeypatch.setattr(inshop, "PUBLISHED", whole)
    assert len(load(root, check_counts=True)) == 10
    monkeypatch.setattr(inshop, "PUBLISHED", whole | {what: 1000})
    with pytest.raises(ValueError, match=rf"found {whole[what]} {what}, expected 1,000"):
        load(root, check_counts=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("10\n", "", "line 1 is 'image_name item_id evaluation_status'; expected the number of rows"),
        ("image_name item_id", "image_name id", "line 2 is 'image_name id .*; expected the title"),
        ("id_00000003   train", "id_00000003", "line 5 is .*; expected 3 cells: image_name item_id"),
        (
            "id_00000003   train",
            "id_00000003 val",
            "line 5 is .*; expected evaluation_status such as train, query",
        ),
        (
            "id_00000003   train",
            "id_00000003 trainval",
            "line 5 is .*; expected evaluation_status such as train, query",
        ),
        ("img/MEN/Denim/id_00000081/", "Denim/", "line 7 is .*; expected image_name such as img/WOMEN"),
        ("01_3_back", "01_1_front", "line 12 is .*; expected another image_name than in line 11"),
        (LIST[2:], "", "line 1 is ''; expected the title"),
        (LIST[40:], "", "has no rows"),
    ],
)
def test_says_which_line_is_wrong(root, old, new, message):
    file = root / "Eval" / "list_eval_partition.txt"
    assert old in LIST
    file.write_text(LIST.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as caught:
        load(root)
    assert str(file) in str(caught.value)


def test_missing_files_say_what_to_get(root):
    (root / "img").rmdir()
    with pytest.raises(ValueError, match=r"no folder img with photos in .*InShopRetrieval"):
        load(root)
    (root / "Eval" / "list_eval_partition.txt").unlink()
    with pytest.raises(ValueError, match=r"no Eval/list_eval_partition\.txt or .*InShopRetrieval"):
        load(root)
    with pytest.raises(ValueError, match="needs a root"):
        load(None)
