import pytest

from fsl_jax.data.sources import cub

EVERYTHING = "train+val+test"
LISTS = {
    "classes.txt": """1 001.Black_footed_Albatross
99 099.Ovenbird
100 100.Brown_Pelican
101 101.White_Pelican
200 200.Common_Yellowthroat
""",
    "images.txt": """1 001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg
2 200.Common_Yellowthroat/Common_Yellowthroat_0003_190521.jpg
3 099.Ovenbird/Ovenbird_0001_92867.jpg
4 100.Brown_Pelican/Brown_Pelican_0001_94038.jpg
5 101.White_Pelican/White_Pelican_0001_96305.jpg
6 001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg
""",
    "image_class_labels.txt": "1 1\n2 200\n3 99\n4 100\n5 101\n6 1\n",
}


@pytest.fixture
def root(tmp_path):
    for name, text in LISTS.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "images").mkdir()
    return tmp_path


def load(root, split=EVERYTHING, **options):
    return cub.load(root, split, **{"check_counts": False} | options)


def test_the_first_hundred_labels_train_and_the_others_test(root):
    train, test = load(root, "train"), load(root, "test")
    assert train.label.names == ("001.Black_footed_Albatross", "099.Ovenbird", "100.Brown_Pelican")
    assert train.label.codes.tolist() == [0, 0, 1, 2]
    assert test.label.names == ("101.White_Pelican", "200.Common_Yellowthroat")
    assert test.role is None
    assert test.file(0) == root / "images/101.White_Pelican/White_Pelican_0001_96305.jpg"


def test_labels_are_joined_by_the_id_of_the_image_not_by_line(root):
    (root / "image_class_labels.txt").write_text("6 1\n5 101\n4 100\n3 99\n2 200\n1 1\n")
    table = load(root, "test")
    assert [
        (table.label.names[c], p.split("/")[1]) for c, p in zip(table.label.codes, table.path, strict=True)
    ] == [
        ("101.White_Pelican", "101.White_Pelican"),
        ("200.Common_Yellowthroat", "200.Common_Yellowthroat"),
    ]


def test_the_last_training_labels_can_validate(root):
    assert load(root, "train", val_labels=2).label.names == ("001.Black_footed_Albatross",)
    assert load(root, "val", val_labels=2).label.names == ("099.Ovenbird", "100.Brown_Pelican")
    assert load(root, "val", val_labels=1).label.names == ("100.Brown_Pelican",)
    with pytest.raises(ValueError, match="no photo in split 'val'"):
        load(root, "val")


def test_few_shot_deals_half_a_quarter_and_a_quarter_of_the_labels(tmp_path):
    names = [f"{number:03d}.Bird" for number in range(1, 201)]
    (tmp_path / "images").mkdir()
    (tmp_path / "classes.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    (tmp_path / "images.txt").write_text("".join(f"{i} {name}/1.jpg\n" for i, name in enumerate(names, 1)))
    (tmp_path / "image_class_labels.txt").write_text("".join(f"{i} {i}\n" for i in range(1, 201)))
    parts = [load(tmp_path, part, split_rule="few_shot").label.names for part in ("train", "val", "test")]
    assert [len(part) for part in parts] == [100, 50, 50]
    assert set().union(*parts) == set(names)
    assert parts[0] != load(tmp_path, "train", split_rule="few_shot", split_seed=1).label.names


@pytest.mark.parametrize("options", [{"split_rule": "random"}, {"val_labels": 100}, {"val_labels": -1}])
def test_refuses_options_that_are_not_allowed(root, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is"):
        load(root, **options)


def test_few_shot_has_validation_labels_of_its_own(root):
    with pytest.raises(ValueError, match="val_labels is 3 under split_rule='few_shot'"):
        load(root, split_rule="few_shot", val_labels=3)


@pytest.mark.parametrize("what", ["photos", "labels"])
def test_published_counts_are_checked(root, monkeypatch, what):
    with pytest.raises(ValueError, match=r"cub: found 6 photos, expected 11,788 .*check_counts=False"):
        cub.load(root, EVERYTHING)
    whole = {"photos": 6, "labels": 5}
    monkeypatch.setattr(cub, "PUBLISHED", whole)
    assert len(load(root, check_counts=True)) == 6
    monkeypatch.setattr(cub, "PUBLISHED", whole | {what: 9})
    with pytest.raises(ValueError, match=f"found {whole[what]} {what}, expected 9 "):
        load(root, check_counts=True)


def test_the_folder_of_the_archive_may_lie_in_the_root(root, tmp_path_factory):
    above = tmp_path_factory.mktemp("above")
    root.rename(above / "CUB_200_2011")
    assert load(above, "test").root == above / "CUB_200_2011"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("images.txt", "1 a/1.jpg\n2\n", "line 2 is '2'; expected 2 cells: image_id path"),
        ("images.txt", "1 a/1.jpg\n1 a/2.jpg\n", "line 2 is .*; expected another image_id than in line 1"),
        (
            "images.txt",
            "7 a/1.jpg\n",
            r"line 1 is '7 a/1.jpg'; expected a row whose image_id is in image_class_labels\.txt",
        ),
        (
            "image_class_labels.txt",
            "1 7\n",
            r"line 1 is '1 7'; expected a row whose class_id is in classes\.txt",
        ),
        ("classes.txt", "one 001.Albatross\n", "line 1 is .*; expected class_id such as 1"),
    ],
)
def test_says_which_line_is_wrong(root, name, text, message):
    if name == "image_class_labels.txt":
        (root / "images.txt").write_text("1 a/1.jpg\n")
    (root / name).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load(root)
    assert str(root / name) in str(caught.value)


def test_missing_files_say_what_to_get(root):
    (root / "images").rmdir()
    with pytest.raises(ValueError, match=r"no folder images .*CUB_200_2011\.tgz"):
        load(root)
    (root / "classes.txt").unlink()
    with pytest.raises(ValueError, match=r"no classes\.txt in .*CUB_200_2011\.tgz"):
        load(root)
