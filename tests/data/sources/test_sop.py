import pytest

from fsl_jax.data.sources import sop

EVERYTHING = "train+val+test"
TITLE = "image_id class_id super_class_id path\n"
TRAIN = """1 1 1 bicycle_final/111085122871_0.JPG
2 1 1 bicycle_final/111085122871_1.JPG
3 2 1 bicycle_final/111265328556_0.JPG
4 2 1 bicycle_final/111265328556_1.JPG
5 3 2 coffee_maker_final/121021503453_0.JPG
6 4 2 coffee_maker_final/121021503454_0.JPG
"""
TEST = """7 11319 2 coffee_maker_final/151927434634_0.JPG
8 11319 2 coffee_maker_final/151927434634_1.JPG
9 11320 1 bicycle_final/121166463218_0.JPG
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "Ebay_train.txt").write_text(TITLE + TRAIN)
    (tmp_path / "Ebay_test.txt").write_text(TITLE + TEST)
    for category in ("bicycle", "coffee_maker"):
        (tmp_path / f"{category}_final").mkdir()
    return tmp_path


def load(root, split=EVERYTHING, **options):
    return sop.load(root, split, **{"check_counts": False} | options)


def test_the_lists_are_the_splits(root):
    table = load(root, "test")
    assert table.label.names == ("11319", "11320")
    assert table.path.tolist() == [
        "coffee_maker_final/151927434634_0.JPG",
        "coffee_maker_final/151927434634_1.JPG",
        "bicycle_final/121166463218_0.JPG",
    ]
    assert table.file(2) == root / "bicycle_final/121166463218_0.JPG"
    assert load(root, "train", val_fraction=0.0).label.names == ("1", "2", "3", "4")


def test_every_photo_is_query_and_gallery(root):
    assert load(root).role is None


def test_the_category_is_the_folder(root):
    level = load(root, "test").levels["category"]
    assert level.names == ("bicycle", "coffee_maker")
    assert level.codes.tolist() == [1, 1, 0]


def test_a_quarter_of_the_training_labels_is_held_out(root):
    train, val = load(root, "train", val_fraction=0.25), load(root, "val", val_fraction=0.25)
    assert (len(train.label.names), len(val.label.names)) == (3, 1)
    assert {*train.label.names, *val.label.names} == {"1", "2", "3", "4"}


@pytest.mark.parametrize("what", ["train photos", "train labels", "test photos", "test labels"])
def test_published_counts_are_checked(root, monkeypatch, what):
    with pytest.raises(ValueError, match=r"sop: found 6 train photos, expected 59,551 .*check_counts=False"):
        sop.load(root, EVERYTHING)
    whole = {"train photos": 6, "train labels": 4, "test photos": 3, "test labels": 2}
    monkeypatch.setattr(sop, "PUBLISHED", whole)
    assert len(load(root, check_counts=True)) == 9
    monkeypatch.setattr(sop, "PUBLISHED", whole | {what: 1})
    with pytest.raises(ValueError, match=f"found {whole[what]} {what}, expected 1 "):
        load(root, check_counts=True)


def test_the_folder_of_the_archive_may_lie_in_the_root(root, tmp_path_factory):
    above = tmp_path_factory.mktemp("above")
    root.rename(above / "Stanford_Online_Products")
    assert load(above, "test").root == above / "Stanford_Online_Products"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEST, "line 1 is '7 11319 .*; expected the title 'image_id class_id super_class_id path'"),
        (TITLE + "7 11319 2\n", "line 2 is '7 11319 2'; expected 4 cells"),
        (TITLE + "\n7 11319 2 1.JPG\n", "line 3 is '7 11319 2 1.JPG'; expected path such as bicycle_final/"),
        (TITLE + "7 8 2 a/1.JPG\n8 9 2 a/1.JPG\n", "line 3 is .*; expected another path than in line 2"),
        (TITLE, "has no rows"),
    ],
)
def test_says_which_line_is_wrong(root, text, message):
    (root / "Ebay_test.txt").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load(root)
    assert str(root / "Ebay_test.txt") in str(caught.value)


def test_missing_files_say_what_to_get(root):
    (root / "coffee_maker_final").rmdir()
    with pytest.raises(ValueError, match=r"no folder coffee_maker_final .*Stanford_Online_Products\.zip"):
        load(root)
    (root / "Ebay_test.txt").unlink()
    with pytest.raises(ValueError, match=r"no Ebay_test\.txt in .*Stanford_Online_Products\.zip"):
        load(root)
