import csv
from pathlib import Path

import numpy as np
import pytest
from absl import logging
from ml_collections import ConfigDict

from fsl_jax.data.sources import csv_manifest


@pytest.fixture(autouse=True)
def warned(monkeypatch):
    messages = []
    monkeypatch.setattr(logging, "warning", lambda message, *values: messages.append(message % values))
    return messages


def manifest(folder, text, *, name="manifest.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder


EVERYTHING = "train+val+test"

FULL = '''path,label,split,role,camera,category,subcategory,attributes,description
i/1.jpg,007,train,gallery,north,Bags,Totes,colour=red|material=wool,"A bag, ""large"""
i/2.jpg,007,train,query,south,Bags,Totes,colour=red,
i/3.jpg,NA,test,,north,Shoes,,,NA
'''


def test_reads_every_column_of_the_contract(tmp_path):
    table = csv_manifest.load(manifest(tmp_path, FULL), EVERYTHING)
    assert table.label.names == ("007", "NA")
    assert table.split.tolist() == ["train", "train", "test"]
    assert table.role.tolist() == ["gallery", "query", ""]
    assert [table.domain.names[code] for code in table.domain.codes] == ["north", "south", "north"]
    assert table.levels["category"].names == ("Bags", "Shoes")
    assert table.levels["subcategory"].codes.tolist() == [0, 0, -1]
    assert table.attributes.names == ("colour=red", "material=wool")
    assert table.attributes.values.tolist() == [[True, True], [True, False], [False, False]]
    assert table.text.tolist() == ['A bag, "large"', "", "NA"]
    assert table.file(0) == tmp_path / "i" / "1.jpg"


def test_mask_files_lie_where_the_photos_do_and_may_be_left_out(tmp_path):
    manifest(tmp_path, "path,mask,label\nb\\2.jpg,m\\2.png,b\n1.jpg,,a\n")
    table = csv_manifest.load(tmp_path, EVERYTHING, photos="images")
    assert table.mask.tolist() == ["", "m/2.png"]
    assert [table.mask_file(row) for row in range(2)] == [None, tmp_path / "images/m/2.png"]
    assert csv_manifest.load(manifest(tmp_path, FULL), EVERYTHING).mask is None


def test_path_and_label_are_enough_and_labels_are_dealt_whole(tmp_path):
    rows = "".join(f"{label}/{i}.jpg,{label}\n" for label in "abcdefghij" for i in range(2))
    manifest(tmp_path, "path,label\n" + rows)
    labels = [set(csv_manifest.load(tmp_path, split).label.names) for split in ("train", "val", "test")]
    assert [len(names) for names in labels] == [6, 2, 2]
    assert len(set.union(*labels)) == 10
    table = csv_manifest.load(tmp_path, EVERYTHING)
    assert (table.role, table.domain, table.attributes, table.text, dict(table.levels)) == (None,) * 4 + ({},)


ORIGINAL = r""",path,label
2961,Chanel\Prêt-à-porter\Sacs & pochettes (été)\image_1.jpg,Chanel-Prêt-à-porter-Sacs & pochettes (été)
6002,D_G\D&G\__MACOSX\._image_1.jpg,D_G-D&G-__MACOSX
7101,__MACOSX/YSL/YSL/._image_4.jpg,__MACOSX-YSL-YSL
11720,YSL\YSL\black 2\image_4.jpg,YSL-YSL-black 2
"""


def test_reads_windows_paths_an_unnamed_id_column_and_leaves_stubs_out(tmp_path, warned):
    table = csv_manifest.load(manifest(tmp_path, ORIGINAL), EVERYTHING)
    assert table.path.tolist() == [
        "Chanel/Prêt-à-porter/Sacs & pochettes (été)/image_1.jpg",
        "YSL/YSL/black 2/image_4.jpg",
    ]
    assert "Chanel-Prêt-à-porter-Sacs & pochettes (été)" in table.label.names
    assert [path for path, _ in csv_manifest.skipped(tmp_path)] == [
        "D_G/D&G/__MACOSX/._image_1.jpg",
        "__MACOSX/YSL/YSL/._image_4.jpg",
    ]
    assert "2 files are left out" in warned[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_accents_survive_the_encodings_of_spreadsheets(tmp_path, encoding):
    table = csv_manifest.load(manifest(tmp_path, "path,label\né.jpg,été\n", encoding=encoding), EVERYTHING)
    assert (table.path.tolist(), table.label.names) == (["é.jpg"], ("été",))


def test_the_file_may_have_any_name_and_the_photos_any_folder(tmp_path):
    manifest(tmp_path, "path,label\n1.jpg,a\n", name="train.csv")
    for photos, place in {"images": tmp_path / "images/1.jpg", "/photos": Path("/photos/1.jpg")}.items():
        assert csv_manifest.load(tmp_path / "train.csv", EVERYTHING, photos=photos).file(0) == place


def test_levels_can_be_named(tmp_path):
    manifest(tmp_path, FULL)
    table = csv_manifest.load(tmp_path, EVERYTHING, levels=("camera", "category"))
    assert list(table.levels) == ["camera", "category"]
    assert list(csv_manifest.load(tmp_path, EVERYTHING, levels="category").levels) == ["category"]
    with pytest.raises(ValueError, match=r"'categry', which is no column; .*did you mean 'category'"):
        csv_manifest.load(tmp_path, EVERYTHING, levels=["categry"])


IN_SHOP = """image_file,p_id,type,label,colour
img/1.jpg,id_7,query,WOMEN,red
__MACOSX/._1.jpg,id_7,query,WOMEN,red
img\\2.jpg,id_8,gallery,MEN,NA
"""


@pytest.mark.parametrize(
    "columns",
    [
        {"path": "image_file", "label": "p_id", "role": "type"},
        ("path=image_file", "label=p_id", "role=type"),
        ["path = image_file", "label= p_id", "role =type"],
        ConfigDict({"path": "image_file", "label": "p_id", "role": "type"}),
    ],
)
def test_columns_may_have_names_of_their_own(tmp_path, columns):
    table = csv_manifest.load(
        manifest(tmp_path, IN_SHOP), EVERYTHING, columns=columns, levels=("image_file", "p_id")
    )
    assert table.path.tolist() == ["img/1.jpg", "img/2.jpg"]
    assert table.label.names == table.levels["p_id"].names == ("id_7", "id_8")
    assert table.role.tolist() == ["query", "gallery"]
    assert [path for path, _ in csv_manifest.skipped(tmp_path, columns=columns)] == ["__MACOSX/._1.jpg"]


def test_one_column_is_renamed_by_a_single_text(tmp_path):
    table = csv_manifest.load(manifest(tmp_path, "path,p_id\n1.jpg,a\n"), EVERYTHING, columns="label=p_id")
    assert table.label.names == ("a",)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"lable": "p_id"}, "columns has 'lable', which is no name .*did you mean 'label'"),
        ({"label": "pid"}, "columns has label=pid, and .*manifest.csv has no 'pid'; .*did you mean 'p_id'"),
        ("p_id", "columns has 'p_id'; expected .* such as path=image_file"),
        (("label=p_id", "label=type"), "columns has 'label' twice"),
        (None, "no column 'path'; known: image_file, .*columns=path=ITS_NAME"),
    ],
)
def test_renamings_that_do_not_fit_are_named(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        csv_manifest.load(manifest(tmp_path, IN_SHOP), EVERYTHING, columns=columns)


def test_columns_with_one_value_become_attributes(tmp_path):
    manifest(tmp_path, "path,label,colour,size\n1.jpg,a,red,\n2.jpg,b,NA,36\n")
    got = csv_manifest.load(tmp_path, EVERYTHING, attribute_columns=("colour", "size")).attributes
    assert got.names == ("colour=red", "size=36")
    assert got.values.tolist() == [[True, False], [False, True]]
    assert got.known.tolist() == [[True, False], [False, True]]
    assert csv_manifest.load(tmp_path, EVERYTHING, attribute_columns="size").attributes.names == ("size=36",)
    with pytest.raises(ValueError, match=r"attribute_columns has 'color', which is no column; .*'colour'"):
        csv_manifest.load(tmp_path, EVERYTHING, attribute_columns="color")


def test_columns_with_one_value_go_beside_the_listed_attributes(tmp_path):
    got = csv_manifest.load(manifest(tmp_path, FULL), EVERYTHING, attribute_columns="camera").attributes
    assert got.names == ("colour=red", "material=wool", "camera=north", "camera=south")
    assert got.values.astype(int).tolist() == [[1, 1, 1, 0], [1, 0, 0, 1], [0, 0, 1, 0]]
    assert got.known is None


def test_labels_that_look_like_numbers_stay_text(tmp_path):
    manifest(tmp_path, "path,label,name\n1.jpg,007,1e3\n2.jpg,010,NA\n")
    table = csv_manifest.load(tmp_path, EVERYTHING)
    assert (table.label.names, sorted(table.text)) == (("007", "010"), ["1e3", "NA"])


def test_rare_labels_can_be_dropped(tmp_path):
    table = csv_manifest.load(manifest(tmp_path, FULL), EVERYTHING, min_photos=2)
    assert table.label.names == ("007",)
    assert table.levels["category"].names == ("Bags",)


def test_other_names_of_the_validation_split_are_understood(tmp_path):
    manifest(tmp_path, "path,label,split\n1.jpg,a,Train\n2.jpg,b,valid\n3.jpg,c,validation\n")
    assert csv_manifest.load(tmp_path, "val").label.names == ("b", "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,name\n1.jpg,a\n", "no column 'label'; known: path, name"),
        ("path;label\n1.jpg;a\n", "no column 'path'.*separate them by commas"),
        ("path,label\n1.jpg,a\n2.jpg,b\n1.jpg,c\n", "row 3 has path '1.jpg', as row 1"),
        ("path,label\n1.jpg,a\n2.jpg,\n", r"row 2 \(2.jpg\) has no label"),
        ("path,label\n,a\n", r"row 1 \(a\) has no path"),
        ("path,label\n", "has no rows"),
        ("", "no column 'path'"),
        ("path,label,split\n1.jpg,a,holdout\n", r"split of row 0 \(1.jpg\) is 'holdout'"),
        ("path,label,role\n1.jpg,a,probe\n", r"role of row 0 \(1.jpg\) is 'probe'"),
        ("path,label\n1.jpg,a,b,c\n", "no regular csv"),
    ],
)
def test_says_what_is_wrong_in_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        csv_manifest.load(manifest(tmp_path, text), EVERYTHING)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*manifest\.csv"):
        csv_manifest.load(tmp_path, "train")


def test_the_real_catalogue_agrees_with_a_plain_reader(real_data):
    root = real_data("luma")
    with (root / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    table = csv_manifest.load(root, EVERYTHING, levels=("department", "category", "subcategory"))
    assert (len(table), len(table.label.names), len(table.attributes.names)) == (708, 176, 113)
    for i in range(len(table)):
        row = rows[table.path[i]]
        assert table.label.names[table.label.codes[i]] == row["label"]
        assert (table.split[i], table.role[i]) == (row["split"], row["role"])
        assert table.text[i] == row["description"].strip()
        stated = {table.attributes.names[j] for j in table.attributes.values[i].nonzero()[0]}
        assert stated == {part.strip() for part in row["attributes"].split("|") if part.strip()}
        for name, level in table.levels.items():
            assert (level.names[level.codes[i]] if level.codes[i] >= 0 else "") == row[name].strip()
    counts = {split: len(csv_manifest.load(root, split)) for split in ("train", "val", "test")}
    assert counts == {"train": 393, "val": 70, "test": 245}
    assert np.unique(table.role, return_counts=True)[1].tolist() == [451, 257]
