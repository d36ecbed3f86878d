import pytest

from fsl_jax.data.sources import veri776

EVERYTHING = "train+val+test"
LISTS = {
    "train": ["0001_c001_00016450_0.jpg", "0001_c002_00016460_0.jpg", "0003_c001_00016470_0.jpg"],
    "query": ["0002_c002_00030600_0.jpg", "0005_c003_00030670_0.jpg"],
    "test": ["0002_c002_00030600_0.jpg", "0002_c003_00084280_1.jpg", "0005_c016_00086260_0.jpg"],
}


@pytest.fixture
def root(tmp_path):
    for part, names in LISTS.items():
        (tmp_path / f"name_{part}.txt").write_text("\n".join(names) + "\n")
        (tmp_path / f"image_{part}").mkdir()
    return tmp_path


def load(root, split=EVERYTHING, **options):
    return veri776.load(root, split, **{"check_counts": False} | options)


def test_test_has_queries_and_gallery_from_their_folders(root):
    table = load(root, "test")
    assert table.label.names == ("0002", "0005")
    assert list(zip(table.path.tolist(), table.role.tolist(), strict=True)) == [
        ("image_query/0002_c002_00030600_0.jpg", "query"),
        ("image_test/0002_c002_00030600_0.jpg", "gallery"),
        ("image_test/0002_c003_00084280_1.jpg", "gallery"),
        ("image_query/0005_c003_00030670_0.jpg", "query"),
        ("image_test/0005_c016_00086260_0.jpg", "gallery"),
    ]
    assert table.label.codes.tolist() == [0, 0, 0, 1, 1]


def test_the_camera_is_the_domain(root):
    domain = load(root, "test").domain
    assert [domain.names[code] for code in domain.codes] == ["c002", "c002", "c003", "c003", "c016"]


def test_training_vehicles_have_no_roles(root):
    table = load(root, "train", val_fraction=0.0)
    assert table.role.tolist() == ["", "", ""]
    assert table.path[0] == "image_train/0001_c001_00016450_0.jpg"


def test_half_of_the_training_vehicles_are_held_out(root):
    train, val = load(root, "train", val_fraction=0.5), load(root, "val", val_fraction=0.5)
    assert {train.label.names, val.label.names} == {("0001",), ("0003",)}


@pytest.mark.parametrize("what", ["query photos", "gallery photos", "gallery vehicles"])
def test_published_counts_of_the_test_are_checked(root, monkeypatch, what):
    with pytest.raises(
        ValueError, match=r"veri776: found 2 query photos, expected 1,678 .*check_counts=False"
    ):
        veri776.load(root, EVERYTHING)
    whole = {"query photos": 2, "gallery photos": 3, "gallery vehicles": 2}
    monkeypatch.setattr(veri776, "PUBLISHED", whole)
    assert len(load(root, check_counts=True)) == 8
    monkeypatch.setattr(veri776, "PUBLISHED", whole | {what: 7})
    with pytest.raises(ValueError, match=f"found {whole[what]} {what}, expected 7 "):
        load(root, check_counts=True)


def test_the_folder_of_the_archive_may_lie_in_the_root(root, tmp_path_factory):
    above = tmp_path_factory.mktemp("above")
    root.rename(above / "VeRi")
    assert load(above, "test").root == above / "VeRi"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "0002_c002_00030600_0.jpg\nvan.jpg\n",
            "line 2 is 'van.jpg'; expected name such as 0001_c001_00016450_0",
        ),
        ("0002_c002_00030600_0.jpg 2\n", "line 1 is .*; expected 1 cells: name"),
        ("0002_c002_1_0.jpg\n0002_c002_1_0.jpg\n", "line 2 is .*; expected another name than in line 1"),
        ("\n", "has no rows"),
    ],
)
def test_says_which_line_is_wrong(root, lines, message):
    (root / "name_query.txt").write_text(lines)
    with pytest.raises(ValueError, match=message) as caught:
        load(root)
    assert str(root / "name_query.txt") in str(caught.value)


def test_missing_files_say_what_to_get(root):
    (root / "image_query").rmdir()
    with pytest.raises(ValueError, match=r"no folder image_query .*vehiclereid\.github\.io"):
        load(root)
    (root / "name_test.txt").unlink()
    with pytest.raises(ValueError, match=r"no name_test\.txt in .*vehiclereid\.github\.io"):
        load(root)
