"""The page in headless Chromium: it loads without an error, filters, downloads, stays quick, and is accessible."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from sfi_ray.report import write_report
from sfi_ray.report.accounts import accounts_of
from sfi_ray.report.runs import open_runs
from sfi_ray.report.site.page import render_page
from sfi_ray.report.site.scorecard_page import ShownImage, render_scorecard
from sfi_ray.store.rebuild import rebuild_images
from tests.review.test_scorecard import card

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "</script><img src=x onerror=alert(1)>"
Opens = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opens(browser: Browser) -> Iterator[Opens]:
    """Opens a page; at the end it must have met no error and asked nobody."""
    complaints: list[str] = []
    pages = []

    def open_page(location: str, **options: Any) -> Page:
        page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}, **options})
        pages.append(page)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"a name was run: {dialog.message}"))
        page.on("request", lambda request: complaints.append(request.url) if "://" in request.url[5:] else None)
        page.goto(Path(location).absolute().as_uri())
        page.wait_for_function("document.documentElement.dataset.state === 'ready'")
        complaints[:] = [text for text in complaints if not text.startswith(("file:", "blob:"))]
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []


@pytest.fixture(scope="module")
def run(write_run: Any, make_findings: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """A report of a run with everything: several k, classes with markup in their names, failures, inversions."""
    pixels = [{"row": 0, "col": 3, "value": [255]}, {"row": 2, "col": 1, "value": [7]}]
    common = {"attack": "inversion", "pixels": pixels, "num_altered": 2, "evaluations": 40, "seconds": 1.0}
    common |= {"trace": [{"evaluations": 10, "confidence": 0.25}, {"evaluations": 40, "confidence": 0.5}]}
    places = [(name, k, n) for name in ("mlp", "cnn") for k in (1, 5) for n in range(4)]
    rows = [
        {**common, "classifier": name, "k": k, "target_class": n, "target_name": (EVIL, "cat", "dog", "$")[n]}
        | {"confidence": 0.95 if n else 0.5, "predicted_class": n}
        for name, k, n in places
    ]
    rows += [
        {
            "attack": "inversion",
            "confidence": None,
            "error": EVIL,
            "target_class": 1,
            "target_name": "cat",
            "replicate": 1,
        }
    ]
    similarity = {"image_confidence": 0.9, "feature_distance": 0.1, "feature_inner_product": 0.75}
    similarity |= {"image": EVIL, "image_index": 0}
    rows += [{**common, **similarity, "target_class": 2, "target_name": "dog"}]
    table = make_findings(*rows)
    folder = write_run(
        tmp_path_factory.mktemp("page") / "run", table, name=EVIL, class_names=[EVIL, "cat", "dog", "$"], images=[{}]
    )
    return write_report([str(folder)], charts=False).location, table


def count(page: Page) -> str:
    return page.locator("#filters .count").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_is_accessible_in_both_schemes_and_widths(
    opens: Opens, run: tuple[str, Any], scheme: Any, width: int
) -> None:
    page = opens(run[0], color_scheme=scheme, viewport={"width": width, "height": 900})
    for name in (
        "matrices",
        "classes",
        "gallery",
        "cells",
        "trajectory",
        "success",
        "spending",
        "positions",
        "failures",
    ):
        assert page.locator(f"#{name}").is_visible(), name
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator(".tile").first.click()
    for _ in range(2):  # the open cell, then the page behind it
        found = Axe().run(page).response["violations"]
        assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found] == []
        page.keyboard.press("Escape")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_a_scorecard_is_accessible_in_both_schemes_and_widths(
    browser: Browser, tmp_path: Path, scheme: Any, width: int
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8)
    location = tmp_path / "index.html"
    location.write_text(render_scorecard(card(), [ShownImage(EVIL, image, "black", 1, 0.95)] * 3), "utf-8")
    complaints: list[str] = []
    with browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True) as page:
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: complaints.append(request.url) if "://" in request.url[5:] else None)
        page.goto(location.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found = Axe().run(page).response["violations"]
        assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found] == []
    assert [text for text in complaints if not text.startswith("file:")] == []


def test_filters_decide_what_gallery_and_table_show(opens: Opens, run: tuple[str, Any]) -> None:
    page = opens(run[0])
    assert count(page) == "18 of 18 cells"
    page.locator("#filters").get_by_role("combobox", name="Outcome").select_option("fooled")
    assert count(page) == "12 of 18 cells"
    page.locator("#filters").get_by_label("Class", exact=True).fill("DO")
    assert count(page) == "4 of 18 cells"
    page.locator("#filters").get_by_role("combobox", name="k", exact=True).select_option("5")
    page.locator("#filters").get_by_role("combobox", name="Classifier").select_option("mlp")
    assert count(page) == "1 of 18 cells"
    assert page.locator("#gallery .tile .name").all_inner_texts()[:1] == ["dog"]
    page.locator("#filters").get_by_role("combobox", name="Outcome").select_option("failed")
    assert count(page) == "0 of 18 cells"
    assert "no cell passes" in page.locator("#gallery").inner_text()


def test_filters_are_kept_in_the_address_beside_the_section(opens: Opens, run: tuple[str, Any]) -> None:
    page = opens(run[0])
    page.locator("#filters").get_by_role("combobox", name="Outcome").select_option("fooled")
    page.locator("#filters").get_by_label("Class", exact=True).fill("dog")
    page.locator("#cells").get_by_role("button", name="confidence").click()
    page.locator("nav").get_by_role("link", name="Images").click()
    assert page.url.endswith("#gallery?outcome=fooled&target=dog&order=confidence")
    assert page.locator("#filters").evaluate("box => box.getBoundingClientRect().top") >= 0  # still in sight
    page.reload()
    page.wait_for_function("document.documentElement.dataset.state === 'ready'")
    assert count(page) == "4 of 18 cells"
    page.evaluate("location.hash = '#gallery?outcome=nonsense&k=5&run=7'")
    page.locator("#filters .count", has_text="10 of 18 cells").wait_for()


def test_small_pixels_are_outlined_by_default_and_the_large_view_zooms_in_whole_steps(
    opens: Opens, write_run: Any, many_findings: Any, tmp_path: Path
) -> None:
    table = many_findings(2, 2, size=224)
    folder = write_run(tmp_path / "run", table, input_shape=[3, 224, 224], class_names=["a", "b"])
    page = opens(write_report([str(folder)], charts=False).location, viewport={"width": 1200, "height": 900})
    assert page.locator("#gallery input[type=checkbox]").is_checked()
    assert page.locator("#found rect").count() >= 5
    for name in ("success", "best", "failures", "pairs"):  # one k, one replicate, no failure, no inversion
        assert not page.locator(f"#{name}").is_visible(), name
    assert page.locator("#filters select").count() == 3  # outcome, order, direction
    page.locator("#found .tile").first.click()
    large = page.locator("dialog .large canvas")
    for factor in (2, 3, 4, 3):
        assert large.evaluate("canvas => canvas.getBoundingClientRect().width") == pytest.approx(224 * factor, abs=2.1)
        page.get_by_role("button", name="Zoom out" if factor == 4 else "Zoom in").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download outlined PNG").click()
    saved = np.array(Image.open(io.BytesIO(download.value.path().read_bytes())).convert("RGB"))
    red, green, blue = saved.astype(int).transpose(2, 0, 1)
    assert ((red - green > 100) & (blue - green > 40)).any()  # the outlines' colour


def test_on_a_phone_no_number_is_cut(opens: Opens, run: tuple[str, Any]) -> None:
    page = opens(run[0], viewport={"width": 390, "height": 844})
    cut = """[...document.querySelectorAll('.scroll td, .scroll th, #found .tile, regular-table td')]
        .filter(one => one.offsetParent && (one.getBoundingClientRect().right > innerWidth + 1
            || one.scrollWidth > one.clientWidth + 1) && /^[^a-z]*\\d[^a-z]*$/i.test(one.textContent))
        .map(one => one.outerHTML)"""
    assert page.evaluate(cut) == []
    assert page.locator("#summary td").first.evaluate("cell => getComputedStyle(cell, '::before').content") != "none"


def test_a_picture_is_saved_with_its_true_size_and_values(opens: Opens, run: tuple[str, Any]) -> None:
    location, table = run
    page = opens(location)
    page.locator("#gallery .tile").nth(1).click()
    page.get_by_role("button", name="Outline", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG, 4 x 4").click()
    saved = np.array(Image.open(io.BytesIO(download.value.path().read_bytes())).convert("RGB"))
    np.testing.assert_array_equal(saved, rebuild_images(table.slice(1, 1))[0].repeat(3, axis=2))
    assert download.value.suggested_filename.endswith("_mlp_black_cat_k1_1.png")


def test_tables_sort_by_keyboard(opens: Opens, run: tuple[str, Any]) -> None:
    page = opens(run[0])
    first = page.locator("#summary tbody tr").first
    before = first.inner_text()
    button = page.locator("#summary thead button", has_text="k")
    button.first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#summary th[aria-sort]")
    page.wait_for_timeout(50)
    assert page.locator("#summary tbody tr").count() == 4
    assert page.locator("#summary th[aria-sort]").count() == 1
    page.locator("#cells").get_by_role("button", name="confidence").click()
    page.wait_for_function("document.querySelector('#cells thead').textContent.includes('▲')")
    assert before


def test_charts_by_background_have_the_colours_of_their_legends(opens: Opens, run: tuple[str, Any]) -> None:
    """`black` is also a colour of CSS, in which it would be drawn."""
    page = opens(run[0])
    page.locator("#trajectory select").first.select_option(index=1)
    page.locator("#spending select").nth(1).select_option("background")
    for section, drawn, attribute in (
        ("trajectory", "path[stroke^='#']", "stroke"),
        ("spending", "rect[fill^='#']", "fill"),
    ):
        chart = page.locator(f"#{section} .chart")
        chart.locator("text=black").wait_for()
        legend = chart.locator("[class$='-swatch'] svg").first.get_attribute("fill")
        assert chart.locator(drawn).first.get_attribute(attribute) == legend


def test_a_printed_page_shows_every_table_light_and_within_the_sheet(opens: Opens, run: tuple[str, Any]) -> None:
    page = opens(run[0], color_scheme="dark")
    for _ in range(2):
        page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    shut = page.locator("main details:not([open])").count()
    assert shut
    # A browser lays out for print without a resize event; here the page has the sheet's width before.
    page.set_viewport_size({"width": 700, "height": 1000})
    page.evaluate("new Promise(requestAnimationFrame)")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    for box in page.locator("main details").all():
        assert box.locator(":scope > :not(summary)").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    widest = (
        "Math.max(...[...document.querySelectorAll('.scroll table')].map(one => one.getBoundingClientRect().width))"
    )
    assert page.evaluate(widest) <= 700
    assert not page.locator("nav").is_visible()
    assert page.locator("main button:visible:not(.sort):not(.tile)").count() == 0
    assert page.locator("#trajectory select").first.is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("main details:not([open])").count() == shut


def test_without_javascript_the_findings_are_still_there(browser: Browser, run: tuple[str, Any]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(Path(run[0]).as_uri())
    assert "12 of 17 searched cells are fooled" in page.locator("#found").inner_text()
    assert "needs JavaScript" in page.locator("main").inner_text()
    context.close()


@pytest.mark.slow
def test_a_hundred_thousand_cells_and_classes_by_the_thousand_stay_responsive(
    opens: Opens, write_run: Any, many_findings: Any, tmp_path: Path
) -> None:
    table = many_findings(1000, 100_000, size=32, k=2)
    names = [f"class {number}" for number in range(1000)]
    folder = write_run(tmp_path / "run", table, dataset="cifar10", input_shape=[3, 32, 32], class_names=names)
    runs = open_runs([str(folder)])
    (tmp_path / "index.html").write_text(render_page(runs, [accounts_of(run.rows) for run in runs]))
    page = opens(str(tmp_path / "index.html"))
    assert count(page) == "100,000 of 100,000 cells"
    # Only what is in view exists, however many cells there are.
    assert page.locator("regular-table tbody tr").count() < 60
    assert page.locator("#gallery .tile").count() == 48
    page.locator("#filters").get_by_label("Class", exact=True).fill("class 999")
    assert count(page) == "100 of 100,000 cells"
    page.locator("#filters").get_by_label("Class", exact=True).fill("")
    page.locator("#cells").get_by_role("button", name="confidence").click()
    page.locator("regular-table").evaluate("table => { table.scrollTop = table.scrollHeight; }")
    page.wait_for_function("document.querySelector('regular-table tbody').textContent.includes('100')")
    page.locator("#classes").get_by_label("Find a class").fill("class 777")
    assert "class 777 on black" in page.locator("#classes .found").inner_text()
