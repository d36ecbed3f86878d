"""The page is whole, harmless and readable; its figures are those that it was given."""

import base64
import html.parser
import io
import math
import os
import re
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from fsl_jax.evaluation import report
from fsl_jax.evaluation._report import charts
from fsl_jax.evaluation._report.html import Markup, join, tag
from fsl_jax.evaluation._report.pictures import data_uri
from fsl_jax.evaluation._report.sections import STRONG

EVIL = "<script>alert(\"1\")</script> & 'co'"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Reads a page, and insists that every element is closed by its own end."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, element, attributes):
        assert len(dict(attributes)) == len(attributes), f"attribute twice: {element} {attributes}"
        self.elements.append((element, dict(attributes)))
        if element not in VOID:
            self.open.append(element)

    def handle_endtag(self, element):
        assert self.open.pop() == element

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def all(self, element: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == element]

    def texts(self) -> str:
        return " ".join(" ".join(self.text).split())


def photo(size: int = 28, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size + 2, channels)).astype(np.uint8)


def parts_named(text: str) -> list[report.Part]:
    """One part of each kind, with `text` wherever a text can go."""
    seen = report.Picture(photo(), text, True)
    return [
        report.Curve(text, {text: ([1, 2], [0.5, 0.25]), "other": ([1], [0.5])}, text, text),
        report.Figures(text, {text: text}),
        report.Grid(text, [text, "b"], [text], np.array([[0.5, 0.75]]), ".1%"),
        report.Strip(text, [report.Picture(photo(), text), seen]),
        report.EpisodePicture(text, [[seen]], [[seen, report.Picture(photo(), text, False)]], [text]),
        report.Bars(text, {text: (0.5, 3)}),
        report.Note(text, text),
    ]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(report.render("Demo", parts_named("mAP of trousers")))


def page_of(*parts: report.Part) -> Page:
    return Page(report.render("Demo", parts))


class TestPage:
    def test_has_one_title_and_a_heading_a_part(self, page):
        assert (len(page.all("h1")), len(page.all("h2")), len(page.all("section"))) == (1, 7, 7)
        assert page.all("html") == [{"lang": "en"}]

    def test_links_lead_to_sections(self, page):
        targets = {link["href"] for link in page.all("a")}
        assert targets == {f"#{section['id']}" for section in page.all("section")}

    def test_loads_nothing_and_runs_nothing(self, page):
        assert not {"script", "link", "iframe", "object"} & {name for name, _ in page.elements}
        assert all(image["src"].startswith("data:image/") for image in page.all("img"))
        assert all(not key.startswith("on") for _, attributes in page.elements for key in attributes)
        style = resources.files("fsl_jax.evaluation._report").joinpath("style.css").read_text()
        assert "url(" not in style
        assert "@import" not in style

    def test_a_label_that_is_markup_stays_text(self):
        page = Page(report.render(EVIL, parts_named(EVIL)))
        assert not page.all("script")
        assert page.texts().count(EVIL) >= 16
        assert all(EVIL in image["alt"] for image in page.all("img"))

    def test_a_label_that_ends_an_attribute_stays_inside_it(self):
        page = page_of(report.Strip("s", [report.Picture(photo(), '" onload="alert(1)')]))
        assert page.all("img")[0]["alt"] == 'query, " onload="alert(1)'
        assert "onload" not in page.all("img")[0]

    def test_without_parts_says_so(self):
        page = page_of()
        assert "Nothing to report." in page.texts()
        assert not page.all("nav")

    @pytest.mark.parametrize(
        "part",
        [
            report.Curve("e", {}, "step", "loss"),
            report.Curve("e", {"train": ([], [])}, "step", "loss"),
            report.Curve("e", {"train": ([1, 2], [math.nan, math.inf])}, "step", "loss"),
            report.Figures("e", {}),
            report.Grid("e", [], [], np.zeros((0, 0)), ".1f"),
            report.Grid("e", ["a"], ["b"], np.array([[np.nan]]), ".1f"),
            report.Strip("e", []),
            report.EpisodePicture("e", [], []),
            report.Bars("e", {}),
        ],
    )
    def test_an_empty_part_says_that_it_is(self, part):
        assert re.search(r"No (values to draw|figures|pictures)\.", page_of(part).texts())

    def test_tables_have_a_caption_and_heads_with_scope(self, page):
        assert len(page.all("table")) == len(page.all("caption")) == 3
        assert all(head["scope"] in ("row", "col") for head in page.all("th"))


class TestWrite:
    def test_makes_the_folder_and_leaves_only_the_page(self, tmp_path):
        path = tmp_path / "deep" / "report.html"
        report.write(path, "Demo", [report.Note("n", "Größe")])
        assert path.read_text(encoding="utf-8") == report.render("Demo", [report.Note("n", "Größe")])
        assert [file.name for file in path.parent.iterdir()] == ["report.html"]

    def test_that_fails_keeps_the_old_page(self, tmp_path, monkeypatch):
        path = tmp_path / "report.html"
        path.write_text("old")

        def full(*_):
            assert path.read_text() == "old"
            raise OSError("no space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="no space"):
            report.write(path, "Demo", [])
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_takes_a_file_name_that_is_not_utf8(self, tmp_path):
        name = b"gr\xf6sse.png".decode("utf-8", "surrogateescape")
        report.write(tmp_path / "r.html", "Demo", [report.Note("n", name)])
        assert "gr?sse.png" in (tmp_path / "r.html").read_text(encoding="utf-8")


class TestPictures:
    def decode(self, uri: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2], validate=True))))

    @pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3), (126, 3), (1, 1)])
    def test_a_small_photo_keeps_every_pixel(self, size, channels):
        image = photo(size, channels)
        uri = page_of(report.Strip("s", [report.Picture(image)])).all("img")[0]["src"]
        assert uri.startswith("data:image/png;base64,")
        np.testing.assert_array_equal(self.decode(uri).reshape(image.shape), image)

    def test_a_large_photo_is_shrunk_with_its_aspect_kept(self):
        image = np.full((600, 300, 3), (200, 40, 90), np.uint8)
        uri = page_of(report.Strip("s", [report.Picture(image)])).all("img")[0]["src"]
        assert uri.startswith("data:image/jpeg;base64,")
        decoded = self.decode(uri)
        assert decoded.shape == (256, 128, 3)
        np.testing.assert_allclose(decoded.mean((0, 1)), (200, 40, 90), atol=3)

    @pytest.mark.parametrize("size", [28, 300])
    def test_of_a_photo_with_a_mask_the_colours_are_shown(self, size):
        image = photo(size, 4)
        colours = np.ascontiguousarray(image[..., :3])
        assert data_uri(image) == data_uri(colours)
        assert self.decode(data_uri(image)).shape[2] == 3

    def test_only_photos_below_64_pixels_keep_square_pixels(self):
        kinds = [
            page_of(report.Strip("s", [report.Picture(photo(size))])).all("img")[0].get("class")
            for size in (28, 61, 62, 200)
        ]
        assert kinds == ["tiny", "tiny", None, None]

    def test_right_and_wrong_differ_in_word_and_symbol(self):
        pictures = [report.Picture(photo(), "coat", right) for right in (None, True, False)]
        page = page_of(report.Strip("s", pictures))
        assert [image["alt"] for image in page.all("img")] == [
            "query, coat",
            "rank 1, coat, right",
            "rank 2, coat, wrong",
        ]
        assert (page.texts().count("✓"), page.texts().count("✗")) == (1, 1)

    @pytest.mark.parametrize(
        "image",
        [
            np.zeros((4, 4), np.uint8),
            np.zeros((4, 4, 2), np.uint8),
            np.zeros((4, 4, 3)),
            np.zeros((0, 4, 3), np.uint8),
        ],
    )
    def test_what_is_no_photo_is_refused(self, image):
        with pytest.raises(ValueError, match=r"picture 'coat' is .* expected uint8 \[h, w, 1, 3 or 4\]"):
            report.Picture(image, "coat")


class TestPhotos:
    def test_stand_side_by_side_with_number_caption_and_verdict(self):
        pictures = [
            report.Picture(photo(seed=i), f"coat {i}", right) for i, right in enumerate((False, None))
        ]
        page = page_of(report.Photos("The surest mistakes", pictures))
        assert [image["alt"] for image in page.all("img")] == ["photo 1, coat 0, wrong", "photo 2, coat 1"]
        assert len(page.all("li")) == len(page.all("figure")) == 2
        assert "wide" in page.all("section")[0]["class"]
        assert "The surest mistakes ✗ coat 0 coat 1" in page.texts()

    def test_captions_that_are_markup_stay_text(self):
        page = page_of(report.Photos(EVIL, [report.Picture(photo(), EVIL)]))
        assert not page.all("script")
        assert page.all("img")[0]["alt"] == f"photo 1, {EVIL}"

    def test_of_none_say_so(self):
        assert "No pictures." in page_of(report.Photos("e", [])).texts()


class TestEpisode:
    def test_marks_and_counts_the_predictions(self):
        support, query = np.zeros((2, 1, 8, 8, 3), np.uint8), np.zeros((2, 3, 8, 8, 3), np.uint8)
        part = report.episode_picture("e", support, query, np.array([[0, 1, 0], [1, 1, 0]]), names=["A", "B"])
        assert [[p.right for p in row] for row in part.query] == [[True, False, True], [True, True, False]]
        assert part.query[0][1].caption == "taken for B"
        page = page_of(part)
        assert "4 of 6 right (66.7 %)" in page.texts()
        assert page.texts().count("2 of 3 right (66.7 %)") == 2
        alts = [image["alt"] for image in page.all("img")]
        assert alts[:3] == ["support of A", "query of A, right", "query of A, taken for B, wrong"]

    def test_without_predictions_counts_nothing(self):
        picture = report.Picture(photo())
        assert "right" not in page_of(report.EpisodePicture("e", [[picture]], [[picture]])).texts()

    def test_of_unequal_ways_is_refused(self):
        with pytest.raises(ValueError, match="support of 1 labels, query of 0"):
            report.EpisodePicture("e", [[]], [])


class TestGrid:
    def grid(self, values, **options) -> report.Grid:
        return report.Grid("g", ["1 shot", "5 shots"], ["5-way", "20-way"], np.array(values), **options)

    def test_colours_from_lowest_to_highest_and_skips_nan(self):
        page = page_of(self.grid([[0.5, 1.0], [0.25, np.nan]], format=".1%"))
        styles = [cell.get("style") for cell in page.all("td")[1:]]
        assert styles == ["--heat:33%", "--heat:100%", "--heat:0%", None]
        assert "50.0 % 100.0 %" in page.texts()
        assert "From 25.0 % to 100.0 %" in page.texts()

    def test_of_equal_values_has_no_colour(self):
        page = page_of(self.grid([[2.0, 2.0], [2.0, 2.0]], format=".0f"))
        assert {cell.get("style") for cell in page.all("td")[1:]} == {"--heat:0%"}

    def test_of_the_wrong_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"values of 'g' are \[1, 2\]; expected \[2, 2\]"):
            self.grid([[0.5, 1.0]], format=".1%")

    def test_with_a_wrong_format_is_refused(self):
        with pytest.raises(ValueError, match=r"format of 'g' is 'percent'; expected"):
            self.grid([[0.5, 1.0], [0.5, 1.0]], format="percent")


@pytest.fixture(scope="module")
def schemes() -> list[dict[str, np.ndarray]]:
    style = resources.files("fsl_jax.evaluation._report").joinpath("style.css").read_text()
    found = [dict(re.findall(r"--([\w-]+): #(\w{6});", block)) for block in style.split("@media")[:2]]
    return [
        {name: np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)]) for name, code in scheme.items()}
        for scheme in found
    ]


class TestColours:
    @staticmethod
    def contrast(one: np.ndarray, other: np.ndarray) -> float:
        """WCAG 2.2 contrast ratio, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
        linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in (one, other)]
        low, high = sorted(float(c @ np.array([0.2126, 0.7152, 0.0722])) + 0.05 for c in linear)
        return high / low

    def test_letters_and_lines_stand_out_in_light_and_dark(self, schemes):
        for scheme in schemes:
            for name in ("ink", "soft", "link", "right", "wrong"):
                assert self.contrast(scheme[name], scheme["card"]) >= 4.5, name
            for i in range(charts.COLOURS):
                assert self.contrast(scheme[f"s{i}"], scheme["card"]) >= 3, i

    def test_numbers_can_be_read_on_every_heat(self, schemes):
        for scheme in schemes:
            for share in np.linspace(0, 1, 101):
                back = scheme["heat-low"] + share * (scheme["heat-high"] - scheme["heat-low"])
                letters = scheme["heat-full" if share >= STRONG else "heat-pale"]
                assert self.contrast(back, letters) >= 4.5, share


class TestHtml:
    def test_escapes_text_and_keeps_markup(self):
        assert tag("p", "a < b", tag("br"), class_="note", aria_label='"', hidden=True, title=None) == (
            '<p class="note" aria-label="&quot;" hidden>a &lt; b<br></p>'
        )
        assert join("<", Markup("<b>")) == "&lt;<b>"


def test_importing_the_report_loads_no_heavy_library():
    heavy = {"jax", "torch", "tensorflow", "polars", "sklearn", "grain"}
    code = f"import sys, fsl_jax.evaluation.report; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
