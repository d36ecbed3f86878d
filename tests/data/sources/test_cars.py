import sys

import numpy as np
import pytest

from fsl_jax.data.sources import cars

EVERYTHING = "train+val+test"
ROWS = [("car_ims/000001.jpg", 1), ("car_ims/000002.jpg", 196), ("car_ims/000003.jpg", 98)]
ROWS += [("car_ims/000004.jpg", 99), ("car_ims/000005.jpg", 9), ("car_ims/000006.jpg", 1)]


def write_csv(folder, rows=ROWS):
    (folder / "cars_annos.csv").write_text(
        "path,label\n" + "".join(f"{path},{label}\n" for path, label in rows)
    )


def write_matlab(folder, rows=ROWS):
    """Writes the fields of the published file: one struct an image."""
    savemat = pytest.importorskip("scipy.io").savemat
    fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    annotations = np.empty(len(rows), dtype=[(field, object) for field in fields])
    for i, (path, label) in enumerate(rows):
        annotations[i] = (path, 112, 7, 853, 717, np.uint8(label), np.uint8(i % 2))
    names = np.array([f"Car {i}" for i in range(1, 197)], dtype=object)
    savemat(folder / "cars_annos.mat", {"annotations": annotations, "class_names": names})


@pytest.fixture
def root(tmp_path):
    (tmp_path / "car_ims").mkdir()
    return tmp_path


def load(root, split=EVERYTHING, **options):
    return cars.load(root, split, **{"check_counts": False} | options)


@pytest.mark.parametrize("write", [write_csv, write_matlab])
def test_the_first_98_labels_train_and_the_others_test(root, write):
    write(root)
    train, test = load(root, "train"), load(root, "test")
    assert train.label.names == ("001", "009", "098")
    assert train.path.tolist() == [f"car_ims/00000{i}.jpg" for i in (1, 6, 5, 3)]
    assert test.label.names == ("099", "196")
    assert test.path.tolist() == ["car_ims/000004.jpg", "car_ims/000002.jpg"]
    assert test.file(0) == root / "car_ims" / "000004.jpg"
    assert test.role is None


def test_one_annotation_is_a_set_too(root):
    write_matlab(root, ROWS[:1])
    assert load(root, "train").label.names == ("001",)


def test_the_last_training_labels_can_validate(root):
    write_csv(root)
    assert load(root, "val", val_labels=90).label.names == ("009", "098")
    assert load(root, "val", val_labels=89).label.names == ("098",)
    with pytest.raises(ValueError, match="val_labels is 98; expected 0 to 97"):
        load(root, val_labels=98)


@pytest.mark.parametrize("what", ["photos", "labels"])
def test_published_counts_are_checked(root, monkeypatch, what):
    write_csv(root)
    with pytest.raises(ValueError, match=r"cars: found 6 photos, expected 16,185 .*check_counts=False"):
        cars.load(root, EVERYTHING)
    whole = {"photos": 6, "labels": 5}
    monkeypatch.setattr(cars, "PUBLISHED", whole)
    assert len(load(root, check_counts=True)) == 6
    monkeypatch.setattr(cars, "PUBLISHED", whole | {what: 9})
    with pytest.raises(ValueError, match=f"found {whole[what]} {what}, expected 9 "):
        load(root, check_counts=True)


def test_without_scipy_the_matlab_file_says_what_to_install(root, monkeypatch):
    (root / "cars_annos.mat").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(
        ValueError, match=r"cars_annos\.mat needs SciPy: pip install scipy, or put cars_annos\.csv"
    ):
        load(root)


@pytest.mark.parametrize("content", [b"", b"no Matlab file" * 20])
def test_a_broken_matlab_file_is_named(root, content):
    pytest.importorskip("scipy")
    (root / "cars_annos.mat").write_bytes(content)
    with pytest.raises(ValueError, match=r"cars_annos\.mat is not the published Matlab file"):
        load(root)


def test_a_matlab_file_without_annotations_is_named(root):
    pytest.importorskip("scipy.io").savemat(root / "cars_annos.mat", {"annotations": np.arange(3)})
    with pytest.raises(ValueError, match=r"cars_annos\.mat is not the published Matlab file"):
        load(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class\na/1.jpg,1\n", "no column 'label'; expected the columns path,label"),
        (
            "path,label\na/1.jpg,1\na/2.jpg,Audi\n",
            "line 3 is 'a/2.jpg Audi'; expected label such as 1, up to 196",
        ),
        (
            "path,label\na/1.jpg,196\na/2.jpg,197\n",
            "line 3 is 'a/2.jpg 197'; expected label such as 1, up to 196",
        ),
        ("path,label\na/1.jpg,0\n", "line 2 is 'a/1.jpg 0'; expected label such as 1, up to 196"),
        ("path,label\na/1.jpg\n", "line 2 is 'a/1.jpg '; expected label"),
        ("path,label\n1.jpg,1\n", "line 2 is '1.jpg 1'; expected path such as car_ims/"),
        ("path,label\na/1.jpg,1\na/1.jpg,2\n", "line 3 is .*; expected another path than in line 2"),
        ("path,label\n", "has no rows"),
        ("", "no column 'label'"),
    ],
)
def test_says_which_line_is_wrong(root, text, message):
    (root / "cars_annos.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load(root)
    assert str(root / "cars_annos.csv") in str(caught.value)


def test_missing_files_say_what_to_get(root):
    with pytest.raises(ValueError, match=r"no cars_annos\.csv or cars_annos\.mat in .*car_ims\.tgz"):
        load(root)
    write_csv(root)
    (root / "car_ims").rmdir()
    with pytest.raises(ValueError, match=r"no folder car_ims .*car_ims\.tgz"):
        load(root)
