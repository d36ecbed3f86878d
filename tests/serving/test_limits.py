import pytest
from toy import PREPROCESS, as_bytes, drawn, limits

from fsl_jax.serving.limits import Refused, Token, check_label, check_photo, decode, read_token, writes


def test_numbers_that_allow_nothing_are_refused():
    with pytest.raises(ValueError, match="max_upload is 0; expected more than 0"):
        limits(max_upload=0)
    with pytest.raises(ValueError, match="timeout is nan"):
        limits(timeout=float("nan"))
    with pytest.raises(ValueError, match="Pillow itself decodes at most"):
        limits(max_pixels=10**9)


def test_only_changes_have_room_for_several_photos():
    assert limits().body("POST", "/articles") > 16 * limits().max_upload > limits().body("POST", "/search")
    assert writes("DELETE", "/articles/red bag")
    assert not writes("GET", "/articles")
    assert not writes("POST", "/articlesque")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (" red bag ", "red bag"),
        ("Größe 42", "Größe 42"),
        ("赤いバッグ", "赤いバッグ"),
        ("👩‍🚀 suit", "👩‍🚀 suit"),
        ("x" * 200, "x" * 200),
    ],
)
def test_plain_names_are_labels(given, kept):
    assert check_label(given) == kept


@pytest.mark.parametrize(
    "label",
    [
        "",
        "  ",
        "x" * 201,
        "a/b",
        "a\\b",
        ".",
        "..",
        "a\nb",
        "a\0b",
        "\x1b[31m",
        "a\u202eb",
        "a\u2028b",
        "\ud800",
        "\ufeffa",
    ],
)
def test_other_names_are_refused(label):
    with pytest.raises(Refused) as refused:
        check_label(label)
    assert refused.value.status_code == 422


def test_the_token_comes_from_the_file_first_and_then_the_environment(tmp_path):
    file = tmp_path / "token"
    file.write_text("of-the-file-0123456789\n")
    environment = {"FSL_JAX_TOKEN": "of-the-environment-01"}
    read_token(file, environment).check("Bearer of-the-file-0123456789")
    read_token(None, environment).check("bearer  of-the-environment-01")
    assert not read_token(None, {}).known


@pytest.mark.parametrize("word", ["short", "", "with blanks in it 0123", "ümlaute-0123456789-abc"])
def test_a_weak_token_is_refused_without_being_told(word, tmp_path):
    (tmp_path / "token").write_text(word, encoding="utf-8")
    with pytest.raises(ValueError, match="expected 16 or more of ASCII") as error:
        read_token(tmp_path / "token", {})
    assert not word or word not in str(error.value)


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "a-word-for-tests", "Basic a-word-for-tests", "Bearer a-word-for-testss"],
)
def test_other_headers_are_no_token(header):
    with pytest.raises(Refused) as refused:
        Token("a-word-for-tests").check(header)
    assert refused.value.status_code == 401


def test_a_header_is_read_and_nothing_decoded():
    photo = as_bytes(drawn("red bag", size=900), "JPEG")
    header = check_photo(photo[: len(photo) // 2], limits())
    assert (header.format, header.pixels, header.heavy) == ("JPEG", 810_000, False)
    with pytest.raises(Refused, match="truncated"):
        decode(photo[: len(photo) // 2], PREPROCESS)


def test_many_pixels_are_decoded_one_photo_at_a_time():
    large = limits(max_pixels=40_000_000, max_upload=10_000_000)
    assert check_photo(as_bytes(drawn("red bag", size=3000), "PNG"), large).heavy
    assert not check_photo(as_bytes(drawn("red bag", size=3000), "JPEG"), large).heavy
    with pytest.raises(Refused, match="too many pixels: 3,000 x 3,000; at most 1,000,000"):
        check_photo(as_bytes(drawn("red bag", size=3000), "PNG"), limits())
