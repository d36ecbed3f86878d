"""The page in a real browser."""

import base64
import itertools
import os
import shutil

import pytest
from toy import as_bytes, drawn, make_index, photo_of, process

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium in the PATH")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "index"
    make_index(folder, calibrated=True)
    with process(folder) as (_, address, _):
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, address):
    """Opens the page at a width and colour scheme; what its console complains of fails the test."""
    contexts, complaints = [], []

    def open_page(width=1280, scheme="light"):
        phone = width < 500
        context = browser.new_context(
            viewport={"width": width, "height": 740 if phone else 800},
            color_scheme=scheme,
            has_touch=phone,
            is_mobile=phone,
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda message: complaints.append(message.text) if "Content Security" in message.text else None,
        )
        page.goto(address)
        page.wait_for_selector("#examples img")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def pick(page, photo, name="mine.png"):
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": photo})


def first_hit(page):
    page.wait_for_selector("body:not(.busy) .hit")
    return page.inner_text(".hit .name >> nth=0")


def test_a_picked_photo_finds_its_article(opened):
    page = opened()
    pick(page, photo_of("red bag", 1))
    assert first_hit(page) == "red bag"
    assert page.locator(".hit").count() == 5
    assert page.inner_text("#query-name") == "mine.png"
    assert page.locator("#query-photo").evaluate("image => image.naturalWidth") == 320
    assert "5 articles; the nearest: red bag" in page.inner_text("#status")
    assert "score 1.000" in page.inner_text(".hit .facts >> nth=0").replace("\n", " ")
    page.select_option("#k", "10")
    page.wait_for_function("() => document.querySelectorAll('.hit').length === 10")


def test_every_photo_found_is_shown(opened):
    page = opened()
    pick(page, photo_of("green cap"))
    first_hit(page)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.hit img')].every(image => image.complete && image.naturalWidth > 0)"
    )


SEND = """([kind, data, type]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  if (data) transfer.items.add(new File([bytes], "sent", { type }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true })
    : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.body.dispatchEvent(event);
}"""


def send(page, kind, data, type="image/png"):
    page.evaluate(SEND, [kind, base64.b64encode(data).decode(), type])


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_pasted_or_dropped_photo_finds_its_article(opened, kind):
    page = opened()
    send(page, kind, photo_of("blue boot"))
    assert first_hit(page) == "blue boot"


def test_an_example_finds_itself_and_a_found_photo_the_next(opened):
    page = opened()
    name = page.get_attribute("#examples button >> nth=2", "title")
    page.click("#examples button >> nth=2")
    assert first_hit(page) == name
    second = page.inner_text(".hit .name >> nth=1")
    page.click(".hit button >> nth=1")
    page.wait_for_function("name => document.querySelector('.hit .name').textContent === name", arg=second)


def test_the_keyboard_suffices(opened):
    page = opened()
    page.on(
        "filechooser", lambda _: None
    )  # the browser's own dialog is switched off a moment after the first listener
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Tab")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files({"name": "a.png", "mimeType": "image/png", "buffer": photo_of("red cap")})
    assert first_hit(page) == "red cap"
    page.focus("#examples button")
    page.keyboard.press("Space")
    page.wait_for_function("() => document.querySelector('.hit .name').textContent === 'blue bag'")


def test_a_large_photo_is_made_small_before_it_is_sent(opened, tmp_path):
    page, photo = opened(), tmp_path / "large.bmp"
    photo.write_bytes(as_bytes(drawn("ochre boot", size=2400), "BMP"))
    with page.expect_request("**/search") as request:
        page.set_input_files("#file", photo)
    assert first_hit(page) == "ochre boot"
    assert photo.stat().st_size > 17_000_000
    assert int(request.value.headers.get("content-length", 0)) < 300_000


ERRORS = {
    "too large": (
        b"\xff\xd8\xff" + os.urandom(800_000),
        "image/jpeg",
        "This photo is too large: 0.8 MB, and 0.3 MB are allowed",
    ),
    "broken": (b"\x89PNG\r\n\x1a\nbroken", "image/png", "The photo is broken: its header cannot be read."),
    "no photo": (b"hello", "text/plain", "“sent” is not a photo. Choose an image file."),
    "unknown": (b"hello", "", "This is no photo that can be read; expected JPEG, PNG"),
    "nothing": (b"", "", "There is no photo in"),
}


@pytest.mark.parametrize("kind", ["paste", "drop"])
@pytest.mark.parametrize("wrong", ERRORS)
def test_errors_are_told_in_plain_words(opened, kind, wrong):
    page = opened()
    data, type, message = ERRORS[wrong]
    send(page, kind, data, type)
    page.wait_for_selector("#error:not([hidden])")
    assert message in page.inner_text("#error-text")
    assert page.get_attribute("#error", "role") == "alert"
    assert page.is_hidden("#again")
    pick(page, photo_of("red bag"))
    assert first_hit(page) == "red bag"
    assert page.is_hidden("#error")


def test_offline_is_told_and_can_be_tried_again(opened):
    page = opened()
    page.context.set_offline(True)
    pick(page, photo_of("red bag"))
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error-text") == "You are offline. Connect, and try again."
    page.context.set_offline(False)
    page.click("#again")
    assert first_hit(page) == "red bag"


def test_labels_are_text_and_never_markup(opened):
    page = opened()
    page.evaluate("""list({ threshold: null, hits: [{
      label: "<img src=x onerror=alert(1)>", thumbnail: "/thumbnails/0",
      score: 0.5, probability: 0.25, same_article: true,
    }] })""")
    assert page.inner_text(".hit .name") == "<img src=x onerror=alert(1)>"
    assert page.locator(".hit img").count() == 1


LOOKS = [(width, scheme) for width in (1280, 360) for scheme in ("light", "dark")]


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_it_can_be_read_at_every_width_and_in_both_schemes(opened, width, scheme, tmp_path):
    page = opened(width, scheme)
    for state in ("start", "found", "error"):
        if state == "found":
            pick(page, photo_of("red bag", 1))
            first_hit(page)
        if state == "error":
            send(page, "drop", b"hello", "text/plain")
            page.wait_for_selector("#error:not([hidden])")
        page.screenshot(path=tmp_path / f"{state}-{width}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(TOO_PALE) == []
        assert page.evaluate(TOO_SMALL) == []


# Contrast of all letters that are shown with what lies behind them: 4.5, or 3 where they are large (WCAG 2, 1.4.3).
TOO_PALE = """() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parts(getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
      if (colour[3] > 0) throw new Error("a colour that is half transparent");
    }
    return [255, 255, 255];
  };
  const wrong = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text; (text = walker.nextNode());) {
    const element = text.parentElement, style = getComputedStyle(element);
    if (!text.data.trim() || !element.checkVisibility() || element.closest("noscript")) continue;
    const pair = [light(parts(style.color)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05), size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) wrong.push([text.data.trim(), ratio]);
  }
  return wrong;
}"""

# What is pressed is at least 24 pixels wide and high (WCAG 2.2, 2.5.8), links in a line of text apart.
TOO_SMALL = """() => [...document.querySelectorAll("button, select")].filter((each) => each.checkVisibility())
  .map((each) => [each.id || each.textContent, each.getBoundingClientRect()])
  .filter(([, box]) => box.width < 24 || box.height < 24).map(([name]) => name)"""

NAMED = "button, a, input, select, img, section, ol, ul, [role]"
NAMELESS = """(named) => [...document.querySelectorAll(named)].filter((each) => {
  const ids = (each.getAttribute("aria-labelledby") || "").split(" ");
  const by = ids.map((id) => document.getElementById(id)?.textContent).join("");
  const labels = each.labels ? [...each.labels].map((label) => label.textContent).join("") : "";
  if (each.matches("[role=status], [role=alert]")) return false;
  if (each.matches("img") && each.closest("button[aria-label]")) return !each.hasAttribute("alt");
  return !(each.getAttribute("aria-label") || by || labels || each.getAttribute("alt") || each.textContent).trim();
}).map((each) => each.outerHTML)"""


@pytest.mark.parametrize("width", [1280, 360])
def test_everything_has_a_name_and_a_role(opened, width):
    page = opened(width)
    pick(page, photo_of("red bag"))
    first_hit(page)
    assert page.evaluate(NAMELESS, NAMED) == []
    assert page.get_attribute("html", "lang") == "en"
    assert [page.locator(each).count() for each in ("h1", "main", "header", "footer")] == [1, 1, 1, 1]
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map((each) => Number(each.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert (
        page.eval_on_selector_all(".hit img", "all => all.map((each) => each.alt)")[0] == "Photo of red bag"
    )
    assert page.get_attribute("#query-photo", "alt") == "The photo you asked with: mine.png"
    assert page.get_attribute("#status", "aria-live") == "polite"
    assert page.get_attribute("#camera", "capture") == "environment"
    assert page.is_visible("#take") == (width == 360)
    tree = page.locator("body").aria_snapshot()
    for line in (
        'heading "Find an article by photo" [level=1]',
        'region "Nearest articles"',
        'list "Nearest articles"',
        'button "Search with the photo of red bag"',
    ):
        assert line in tree
    identifiers = page.eval_on_selector_all("[id]", "all => all.map((each) => each.id)")
    assert len(identifiers) == len(set(identifiers))


def test_the_focus_goes_from_top_to_bottom_and_is_seen(opened):
    page = opened()
    pick(page, photo_of("red bag"))
    first_hit(page)
    page.evaluate("document.activeElement.blur()")
    focused = []
    for _ in range(15):
        page.keyboard.press("Tab")
        name, outline, width = page.evaluate("""() => {
          const each = document.activeElement, style = getComputedStyle(each);
          const name = each.id || each.getAttribute("aria-label") || each.textContent;
          return [name, style.outlineStyle, parseFloat(style.outlineWidth)];
        }""")
        assert (outline, width >= 2) == ("solid", True), name
        focused.append(name)
    examples = [
        f"Search with the photo of {label}"
        for label in ("blue bag", "blue cap", "green boot", "ochre bag", "ochre cap", "red boot")
    ]
    assert focused[:9] == ["Skip to the results", "choose", *examples, "k"]
    assert focused[9] == "Search with the photo of red bag"
    assert focused[14] == "Interface for programs"


@pytest.mark.parametrize("width", [1280, 360])
def test_the_description_can_be_read_too(opened, address, width, tmp_path):
    page = opened(width)
    page.goto(f"{address}/docs")
    page.screenshot(path=tmp_path / f"docs-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(TOO_PALE) == []
