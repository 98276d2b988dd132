"""The trace page in headless Chromium: it draws, it can be moved, and it complains of nothing."""

from __future__ import annotations

import json
import shutil

import pytest
from oracles.every_policy import config_of
from records import synthetic_record

import dlmcache_cuda
from dlmcache_cuda.assets.questions import make_questions

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if CHROMIUM is None:
    pytest.skip("no Chromium: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: pip install playwright"
)

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        playwright.expect.set_options(timeout=30_000)  # of what takes milliseconds
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page made from a record; fails when it complains or asks the network for anything."""
    complaints, contexts = [], []

    def opened(record, **options):
        path = tmp_path / "trace.html"
        path.write_text(dlmcache_cuda.trace_page(record), encoding="utf-8")
        options = {"viewport": {"width": 1200, "height": 900}, "color_scheme": "light", **options}
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message) or dialog.dismiss())
        page.on(
            "request",
            lambda request: (
                request.url == path.as_uri()
                or request.url.startswith("data:")
                or complaints.append(request.url)
            ),
        )
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture(scope="module")
def sequence():
    question = make_questions(1, seed=5)[0].prompt
    model = dlmcache_cuda.load()
    out = dlmcache_cuda.decode(
        model,
        [{"role": "user", "content": question}],
        gen_length=64,
        block_length=32,
        cache=config_of("composed"),
        trace=True,
    )
    return out.sequences[0]


def text_of(page) -> str:
    return page.locator("#text").text_content()


def clock(page) -> str:
    return page.locator("#clock").text_content()


def colours(page, selector: str) -> int:
    """How many different colours a canvas shows."""
    return page.evaluate(
        """(selector) => {
            const shown = document.querySelector(selector), copy = document.createElement("canvas");
            [copy.width, copy.height] = [shown.width, shown.height];
            const context = copy.getContext("2d", { willReadFrequently: true });
            context.drawImage(shown, 0, 0);
            const { data } = context.getImageData(0, 0, copy.width, copy.height);
            return new Set(new Uint32Array(data.buffer)).size;
        }""",
        selector,
    )


def test_slider_shows_the_text_as_it_stood(show, sequence):
    page = show(sequence)
    page.locator("#guesses").uncheck()
    trace, prompt_length = sequence.trace, len(sequence.prompt_ids)
    assert clock(page) == f"Step {len(trace)} of {len(trace)}"
    assert "".join(sequence.text.split()) in "".join(text_of(page).split())
    for step in (0, 1, len(trace) // 2):
        page.locator("#step").fill(str(step))
        decided = {p for made in trace[:step] for p in made.written.tolist()}
        shown = page.evaluate(
            """[...document.querySelectorAll("#text .token:not(.empty)")]
                .map((span) => Number(span.dataset.position))"""
        )
        assert set(shown) == decided
        new = trace[step - 1].written.tolist() if step else []
        assert page.locator("#text .token.new").count() == len(new)
        assert page.locator("#text .token").count() == len(sequence.ids)
        assert page.locator("#prompt .token").count() == prompt_length
    assert f"step {step} of" in page.locator("#step").get_attribute("aria-valuetext")


def test_keys_buttons_and_play_move_through_the_steps(show, sequence):
    page = show(sequence)
    steps = len(sequence.trace)
    page.keyboard.press("Home")
    assert clock(page) == "Before step 1" and "blanks" in page.locator("#now").text_content()
    page.keyboard.press("ArrowRight")
    page.locator("#forward").click()
    assert clock(page) == f"Step 2 of {steps}"
    page.keyboard.press("ArrowLeft")
    assert clock(page) == f"Step 1 of {steps}"
    assert "nothing is cached yet" in page.locator("#now-title").text_content()
    page.keyboard.press("End")
    assert clock(page) == f"Step {steps} of {steps}"
    page.locator("#speed").select_option("40")
    page.locator("#play").click()
    assert page.locator("#play").get_attribute("aria-label") == "Pause"
    expect = playwright.expect
    expect(page.locator("#clock")).not_to_have_text(f"Step {steps} of {steps}")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Play", timeout=60_000)
    assert clock(page) == f"Step {steps} of {steps}"
    page.locator("#step").focus()
    page.keyboard.press("PageUp")
    assert clock(page) == f"Step {steps - 10} of {steps}"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 390)])
def test_pictures_are_drawn_at_any_width_in_light_and_dark(show, sequence, scheme, width, tmp_path):
    page = show(sequence, color_scheme=scheme, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    page.keyboard.press("ArrowLeft")
    seen = []
    for mode in ("now", "total", "steps"):
        page.locator(f"#heat-modes label:has([value={mode}])").click()
        assert colours(page, "#heat") > 4
        seen.append(page.locator("#heat").screenshot())
    for mode in ("plain", "when", "sure", "work"):
        page.locator(f"#text-modes label:has([value={mode}])").click()
        seen.append(page.locator("#text").screenshot())
    assert len(set(seen)) == len(seen)
    assert page.locator("#drift-charts canvas").count() == 2
    for number in range(2):
        assert colours(page, f"#drift-charts .chart:nth-child({number + 1}) canvas") > 4
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    before = page.screenshot(full_page=True, path=tmp_path / "page.png")
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") != scheme
    assert page.screenshot(full_page=True) != before


def test_given_text_stands_from_the_start(show):
    out = dlmcache_cuda.fill(dlmcache_cuda.load(), "Q: drum[MASK:4]leaf[MASK:3]", trace=True)
    (sequence,) = out.output.sequences
    page = show(sequence)
    assert int(sequence.given.sum()) >= 1
    page.keyboard.press("Home")
    assert text_of(page).strip() == "leaf"
    assert page.locator("#text .token.given").count() == int(sequence.given.sum())
    assert page.locator("#text .token.empty").count() == 7


def test_explains_rows_under_the_pointer(show, sequence):
    page = show(sequence)
    page.locator("#text .token").first.hover()
    assert "decided at step" in page.locator("#tooltip").text_content()
    page.locator("#heat").hover()
    assert page.locator("#tooltip").text_content().startswith("Layer ")
    page.locator("#token-box summary").click()
    rows = page.locator("#token-table tr")
    playwright.expect(rows).to_have_count(1 + len(sequence.ids))


def test_text_of_models_is_shown_and_not_run(show, sequence):
    evil = "</script><img src=x onerror=alert(1)>"
    record = json.loads(json.dumps(sequence.to_dict()))
    trace = record["trace"]
    trace["pieces"] = dict.fromkeys(trace["pieces"], evil)
    trace["model"] = trace["cache"] = evil
    trace["settings"] = {evil: evil}
    page = show(record)
    page.locator("#token-box summary").click()
    page.keyboard.press("Home")
    playwright.expect(page.locator("#token-table")).to_contain_text(evil)
    assert evil in page.locator("#lead").text_content()
    assert evil in page.locator("#prompt").text_content()
    assert page.locator("img").count() == 0


def test_a_long_run_opens_and_moves(show):
    page = show(synthetic_record(layers=32, prompt=64, generated=512, steps=64))
    page.keyboard.press("ArrowLeft")
    assert clock(page) == "Step 63 of 64"
    share = page.locator("#tiles dd").nth(2).text_content()
    assert share == "22 %"
