"""The report in headless Chromium: nothing asked of the network, no error, and everything that can be clicked works.

Needs playwright (in the dev extra) and the system's Chromium or Chrome; skipped without.
"""

import contextlib
import shutil

import pytest
from comparisons import awkward, three_panels

from l2o import report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install l2o[dev]")

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
ALL_DRAWN = "[...document.querySelectorAll('.plot')].every(plot => plot.dataset.drawn)"


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser found: install one of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, found in (("plain", three_panels()), ("awkward", awkward())):
        (folder / f"{name}.html").write_text(report.page(found), encoding="utf-8")
    return folder


@contextlib.contextmanager
def opened(browser, path, viewport=DESK, fragment="", **options):
    """The page at `path`, all panels open and drawn; complaints and requests fail the test when it is done."""
    context = browser.new_context(viewport=viewport, offline=True, **options)
    context.set_default_timeout(120_000)  # ms; a busy machine is no fault of the page
    page = context.new_page()
    complaints, requests = [], []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri() + fragment)
    yield page
    context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in requests if url.startswith("file:")]) == 1


def test_complaints_and_requests_are_noticed(browser, tmp_path):
    for i, fault in enumerate(("<img src='http://127.0.0.1:9/x.png'>", "<script>undefined.x</script>")):
        (tmp_path / f"{i}.html").write_text(f"<!DOCTYPE html><p>fine</p>{fault}")
        with pytest.raises(AssertionError), opened(browser, tmp_path / f"{i}.html") as page:
            page.wait_for_timeout(200)


def draw_all(page):
    """Opens every panel and looks at every plot, which is when it is drawn."""
    page.evaluate("document.querySelectorAll('details').forEach(panel => { panel.open = true; })")
    for plot in page.query_selector_all(".plot"):
        plot.scroll_into_view_if_needed()
    page.wait_for_function(ALL_DRAWN, timeout=30_000)


@pytest.mark.parametrize("name", ["plain", "awkward"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_plot_is_drawn_without_complaint(browser, files, name, scheme):
    with opened(browser, files / f"{name}.html", color_scheme=scheme) as page:
        draw_all(page)
        lines = page.evaluate(
            "[...document.querySelectorAll('.plot')].map(plot => plot.querySelectorAll('.scatterlayer .trace').length)"
        )
        assert all(lines), lines


def test_a_click_on_a_header_sorts_both_ways(browser, files):
    with opened(browser, files / "plain.html") as page:
        table = page.locator("#overall table").first
        header = table.locator("th", has_text="loss ratio")
        names = lambda: table.locator("tbody th").all_inner_texts()
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == "ascending"
        assert names() == ["fast", "adam", "sgd"]
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == "descending"
        assert names() == ["sgd", "adam", "fast"]
        table.locator("th", has_text="optimizer").locator("button").click()
        assert header.get_attribute("aria-sort") == "none"
        assert names() == ["adam", "fast", "sgd"]


def test_what_is_not_finite_comes_last_both_ways(browser, files):
    with opened(browser, files / "awkward.html") as page:
        table = page.locator("#panel-1 table").first
        button = table.locator("th", has_text="mean @ 20").locator("button")
        for _ in range(2):
            button.click()
            playwright.expect(table.locator("tbody th").first).to_have_text("adam")


def test_a_click_on_the_legend_hides_mean_and_band(browser, files):
    with opened(browser, files / "plain.html") as page:
        plot = page.locator("#panel-1 .plot").first
        plot.scroll_into_view_if_needed()
        plot.locator(".legendtoggle").first.wait_for()
        visible = lambda: page.evaluate(
            "document.querySelector('#panel-1 .plot')._fullData.map(trace => [trace.legendgroup, trace.visible])"
        )
        hidden = lambda: {name for name, seen in visible() if seen == "legendonly"}
        assert hidden() == set()
        first = plot.locator(".legendtext").first.text_content()
        plot.locator(".legendtoggle").first.click()
        page.wait_for_timeout(600)  # plotly waits for a double click
        assert hidden() == {first}
        assert len([name for name, seen in visible() if seen == "legendonly"]) == 2
        page.locator("#panel-1 [data-axis=steps]").click()  # it stays hidden when the axes change
        page.wait_for_timeout(300)
        assert hidden() == {first}


def test_axes_and_bands_can_be_switched(browser, files):
    with opened(browser, files / "plain.html") as page:
        page.locator("#panel-1 .plot").first.scroll_into_view_if_needed()
        page.locator("#panel-1 .legendtoggle").first.wait_for()
        axes = lambda: page.evaluate(
            "(({xaxis, yaxis}) => [xaxis.type, yaxis.type])(document.querySelector('#panel-1 .plot')._fullLayout)"
        )
        traces = lambda: page.evaluate("document.querySelector('#panel-1 .plot').data.length")
        assert axes() == ["linear", "log"]
        num = traces()
        for name, expected in (("loss", ["linear", "linear"]), ("steps", ["log", "linear"])):
            page.locator(f"#panel-1 [data-axis={name}]").click()
            page.wait_for_timeout(200)
            assert axes() == expected
        page.locator("#panel-1 [data-axis=bands]").click()
        page.wait_for_timeout(200)
        assert traces() == num - 3


def test_links_open_their_panels(browser, files):
    with opened(browser, files / "plain.html") as page:
        assert not page.evaluate("document.getElementById('panel-3').open")
        page.locator("nav a", has_text="same").click()
        page.wait_for_function("document.getElementById('panel-3').open")
        page.wait_for_function("Math.abs(document.getElementById('panel-3').getBoundingClientRect().top) < 200")
        page.evaluate("document.getElementById('panel-3').open = false")
        page.locator("nav a", has_text="same").click()  # the same link again
        page.wait_for_function("document.getElementById('panel-3').open")
    with opened(browser, files / "plain.html", fragment="#panel-2") as page:
        assert page.evaluate("document.getElementById('panel-2').open")
        # By the keyboard: the panels are being drawn, and a click meant for the button may hit what has moved there.
        page.locator("#open-all").press("Enter")
        page.wait_for_function("[...document.querySelectorAll('details')].every(panel => panel.open)")


@pytest.mark.parametrize("name", ["plain", "awkward"])
def test_a_phone_never_scrolls_sideways(browser, files, name):
    with opened(browser, files / f"{name}.html", PHONE, is_mobile=True, has_touch=True) as page:
        draw_all(page)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.evaluate("window.innerWidth") == PHONE["width"]  # and was not zoomed out to fit
        scrolls = "[...document.querySelectorAll('.scroll')].some(box => box.scrollWidth > box.clientWidth)"
        assert page.evaluate(scrolls)  # wide tables scroll in a box of their own


def test_names_are_shown_as_they_are(browser, files):
    with opened(browser, files / "awkward.html") as page:
        draw_all(page)
        name = "<b>&</b></script><script>alert(1)</script>"
        assert page.locator("#panel-1 tbody th").all_inner_texts().count(name) >= 1
        assert name in page.locator("#panel-1 .plot").first.locator(".legendtext").all_text_contents()


def test_images_are_shown(browser, files):
    with opened(browser, files / "awkward.html") as page:
        draw_all(page)
        page.locator("#panel-2 img").first.scroll_into_view_if_needed()
        page.wait_for_function("[...document.images].every(image => image.complete)")
        sizes = page.evaluate("[...document.images].map(image => [image.naturalWidth, image.naturalHeight])")
        assert sizes == [[3 * 10 + 2 * 4, 12]] * 2
