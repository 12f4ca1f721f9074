"""The page in a real browser: what a reader does with it."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import threading
from unittest import mock

import pytest

from bench.methods.plans.variant import VARiant
from bench.report import board
from bench.report import page as report
from bench.tables import compare
from tests.bundles import bundled, of_a_plugin
from tests.report.pages import HOSTILE, changed, quiet_run, sample_set

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt install chromium")
PHONE, DESK = {"width": 375, "height": 800}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """report.html, whose VARiants have a hostile name, compare.html, and a leaderboard of a bundle,
    one in which a method and the machine have hostile names, and a file that is none."""
    to = tmp_path_factory.mktemp("pages")
    with mock.patch.object(VARiant, "label", property(lambda _: f"VARiant {HOSTILE}")):
        run = quiet_run(batch_size=[1, 4], rounds=5)
        run.sweep.experiment.paper = "code_table1"
        run.records[0].other_load_cores = 1.0
        run.records[-1].status, run.records[-1].reason = "error", f"RuntimeError: {HOSTILE}"
        sets = [sample_set(to / "a", label=f"VAR {HOSTILE}"), sample_set(to / "b", "npz", "CoDe")]
        report.write(report.of_runs([run], sets), to / "report.html")
    (to / "bundles").mkdir()
    bundled(to, "bundles/ours.zip")
    of_a_plugin(to / "other", f"Theirs {HOSTILE}", f"GPU {HOSTILE}").rename(to / "bundles/b.zip")
    (to / "bundles" / "bad.zip").write_text(HOSTILE)
    board.write(to / "bundles", to / "site")
    run.records.pop()  # the one that failed
    report.write(report.of_comparison(compare.compare(run, changed(run, 1.2))), to / "compare.html")
    return to


@pytest.fixture(scope="module")
def server(folder):
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as driver:
        # as root, as in a container, Chromium has no sandbox
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, folder):
    """Opens a page; at the end nothing may have been requested but the page, nor gone wrong."""
    opened = []

    def go(name="report.html", where=None, before="", **options):
        context = browser.new_context(**({"viewport": DESK} | options))
        page, wrong, asked = context.new_page(), [], []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.add_init_script(before)
        url = f"{where or folder.as_uri()}/{name}"
        page.goto(url)
        page.wait_for_selector("html[data-ready]", timeout=30_000)
        opened.append((context, url, wrong, asked))
        return page

    yield go
    for context, url, wrong, asked in opened:
        context.close()
        assert wrong == []
        assert asked == [url]


def table(page):
    return page.locator(".grid").first


def column(page, number):
    rows = table(page).locator("tbody tr:not([hidden])")
    return [
        text.strip() for text in rows.locator(f":scope > :nth-child({number})").all_inner_texts()
    ]


def choose(page, figure):
    page.locator("#g1 .figures > label", has_text=re.compile(f"^{figure}$")).click()


def head(page, name):
    return table(page).locator(f'th[data-name="{name}"]')


@pytest.mark.parametrize("name", ["report.html", "compare.html", "site/index.html"])
@pytest.mark.parametrize("from_disk", [True, False])
def test_it_opens_from_disk_and_from_a_server(visit, server, name, from_disk):
    page = visit(name, where=None if from_disk else server)
    panels = page.locator(".panel")
    assert panels.count() == page.get_by_role("radio", include_hidden=True).count() >= 1
    for panel in panels.all():
        assert panel.locator("svg, img").count() >= 1, panel.get_attribute("id")


def test_figures_are_switched_by_mouse_and_by_keyboard(visit):
    page = visit()
    titles = page.locator("#g1 .figures > label").all_inner_texts()
    assert titles == [
        *("Speed", "Scales", "Memory", "Batch size", "Trade-off", "Memory by scale", "Raw samples")
    ]
    shown = lambda: page.locator("#g1 .panel:visible").get_attribute("id")  # noqa: E731
    assert shown() == "g1-speed"
    choose(page, "Scales")
    assert shown() == "g1-scales"
    page.keyboard.press("ArrowRight")
    assert shown() == "g1-memory"
    assert page.get_by_role("radio", name="Memory", exact=True).is_checked()


def test_a_column_sorts_both_ways_and_empty_cells_stay_last(visit):
    page = visit()
    latency = head(page, "latency (s), measured")
    number = latency.evaluate("head => head.cellIndex") + 1
    latency.get_by_role("button").click()
    assert latency.get_attribute("aria-sort") == "ascending"
    api.expect(page.locator("#said")).to_have_text("Sorted by latency (s), measured, ascending")
    up = column(page, number)
    known = [float(text) for text in up if text]
    assert known == sorted(known)
    assert up[len(known) :] == [""] * (len(up) - len(known)) != []
    latency.get_by_role("button").press("Enter")
    assert latency.get_attribute("aria-sort") == "descending"
    down = column(page, number)
    assert [float(text) for text in down if text] == known[::-1]
    assert down[-1] == ""


def test_rows_are_filtered_by_words(visit):
    page = visit()
    box = table(page).get_by_role("searchbox")
    count = len(column(page, 1))
    box.fill("modern code")
    assert set(column(page, 1)) == {"CoDe N=6 (d4+d2)", "CoDe N=8 (d4+d2)"}
    assert f"4 of {count} rows" in table(page).inner_text()
    box.fill("")
    assert len(column(page, 1)) == count


def test_a_source_can_be_left_out(visit):
    page = visit()
    table(page).get_by_label("paper", exact=True).uncheck()
    assert head(page, "latency (s), paper").is_hidden()
    assert table(page).locator("td.paper").locator("visible=true").count() == 0
    assert head(page, "latency (s), measured").is_visible()


def test_what_shows_is_copied_as_markdown_and_latex(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    table(page).get_by_role("searchbox").fill("VAR-d4 modern")
    table(page).get_by_label("predicted", exact=True).uncheck()
    table(page).get_by_role("button", name="Copy Markdown").click()
    api.expect(page.locator("#said")).to_have_text("Copy Markdown: copied")
    markdown = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert markdown[0].startswith("### Measured")
    assert markdown[2].startswith("| method | steps |")
    assert "latency (s), measured" in markdown[2]
    assert "predicted" not in markdown[2]
    assert len(markdown) == 6
    assert len({line.count(" | ") for line in markdown[2:]}) == 1
    table(page).get_by_role("button", name="Copy LaTeX").click()
    api.expect(page.locator("#said")).to_have_text("Copy LaTeX: copied")
    latex = page.evaluate("navigator.clipboard.readText()")
    assert latex.count(r" \\") == 3
    assert "\\toprule\nmethod & steps & " in latex
    assert "95 \\%, measured" in latex


def test_it_can_be_copied_where_there_is_no_clipboard(visit):
    """Over plain http a page has no clipboard of its own."""
    page = visit(before="Object.defineProperty(navigator, 'clipboard', {value: undefined});")
    table(page).get_by_role("button", name="Copy Markdown").click()
    assert page.locator("dialog textarea").input_value().startswith("### Measured")


def test_what_a_mark_says_stays_beside_it_when_the_page_scrolls(visit):
    """A browser scrolls to what gets the focus, after it has it."""
    page = visit(viewport={"width": 1280, "height": 500})
    choose(page, "Trade-off")
    mark = page.locator("#g1-tradeoff .told[aria-label*=VARiant]").first
    mark.focus()
    mark.scroll_into_view_if_needed()
    for _ in range(2):
        page.mouse.wheel(0, 40)
        page.wait_for_timeout(100)
        assert page.locator("#tip").is_visible()
        above = mark.bounding_box()["y"] - page.locator("#tip").bounding_box()["y"]
        assert abs(above) < 400


def test_hostile_names_and_errors_are_text(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    name = f"VARiant {HOSTILE}"
    assert name in column(page, 1)
    assert HOSTILE in page.locator(".grid", has_text="RuntimeError").first.inner_text()
    labels = page.locator("#g1-speed svg text").evaluate_all(
        "labels => labels.map(label => label.textContent)"
    )
    assert any(label.startswith("VARiant </script>") for label in labels)
    choose(page, "Trade-off")
    page.locator("#g1-tradeoff .told[aria-label*=VARiant]").first.focus()
    page.wait_for_selector("#tip:visible")
    assert "VARiant" in page.locator("#tip").inner_text()
    assert f"VAR {HOSTILE}" in page.locator("#pictures").inner_text()
    table(page).get_by_role("button", name="Copy Markdown").click()
    api.expect(page.locator("#said")).to_have_text("Copy Markdown: copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert r"\<img src=x onerror=alert(2)\>" in copied
    assert page.locator("img[onerror]").count() == 0
    assert page.locator("script:not([type])").count() == 1


def test_a_phone_never_scrolls_sideways(visit):
    for name in ("report.html", "compare.html", "site/index.html"):
        page = visit(name, viewport=PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_charts_stay_dark_on_white_in_dark_mode(visit):
    page = visit(color_scheme="dark")
    color = "e => getComputedStyle(e).backgroundColor"
    assert page.locator("#g1-speed .chart").evaluate(color) == "rgb(255, 255, 255)"
    assert page.locator("body").evaluate(color) != "rgb(255, 255, 255)"


def test_pointing_at_a_scale_sets_it_off_in_every_method(visit):
    page = visit()
    choose(page, "Scales")
    last = page.locator('#g1-scales .told[data-series="10"]')
    others = page.locator('#g1-scales .told:not([data-series="10"])')
    last.first.hover()
    assert last.count() > 1
    assert page.locator("#g1-scales .faded").count() == others.count() > 1
    assert "scale: 10" in page.locator("#tip").inner_text()
    page.mouse.move(0, 0)
    assert page.locator("#g1-scales .faded").count() == 0


def test_paper_has_every_figure_and_no_tools(visit):
    page = visit(color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    for panel in page.locator(".panel:not([id$=-samples])").all():
        assert panel.locator("svg, img").first.is_visible()
    assert page.locator("nav, .bar button, .figures > label").locator("visible=true").count() == 0
    back = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    assert back == "rgb(255, 255, 255)"


def test_all_that_is_clicked_can_be_reached_and_has_a_name(visit):
    page = visit()
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, select, input, summary, [tabindex]")].filter(
            (e) => !(e.textContent.trim() || e.labels?.length || e.ariaLabel)
        ).length"""
    )
    assert unnamed == 0
    assert page.locator("img:not([alt])").count() == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"


def test_without_javascript_the_tables_can_be_read(browser, folder):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{folder.as_uri()}/report.html")
    assert "CoDe N=6 (d4+d2)" in table(page).inner_text()
    choose(page, "Scales")
    assert page.locator("#g1-scales svg").is_visible()
    context.close()


# The leaderboard


def choose_rows(page, heading, value):
    """Narrows by a list; returns how many rows are left."""
    table(page).get_by_label(heading, exact=True).select_option(value, timeout=5000)
    return len(column(page, 1))


def test_the_board_is_narrowed_by_machine_division_batch_and_gate(visit):
    page = visit("site/index.html")
    many = len(column(page, 1))
    assert many == 9
    gates = [choose_rows(page, "quality gate", gate) for gate in board.GATES]
    assert gates == [2, 4, 0]  # what is within 5 % is within 20 % too
    choose_rows(page, "quality gate", "")
    assert choose_rows(page, "machine", "NVIDIA L20") == 4
    assert choose_rows(page, "division", "training-free") == 3
    assert choose_rows(page, "batch", "64") == 3
    table(page).get_by_role("searchbox").fill("N=9")
    assert column(page, 1) == ["CoDe N=9 (d12+d4), training-free"]
    assert f"1 of {many} rows" in table(page).inner_text()
    head(page, "speed-up").get_by_role("button").click()
    assert head(page, "speed-up").get_attribute("aria-sort") == "ascending"


def test_the_front_of_the_board_is_that_of_its_picture(visit):
    page = visit("site/index.html")
    assert choose_rows(page, "machine", "NVIDIA L20") == 4
    choose_rows(page, "on the front", "front")
    names = ("CoDe N=6 (d12+d4), training-free", "CoDe N=9 (d12+d4), training-free")
    assert {*column(page, 1)} == {*names, "VAR-d12, seed 0"}
    assert page.locator("#trade-off .chart").count() == 2
    told = page.locator("#trade-off .told[aria-label*='N=6']").first
    told.focus()
    assert "latency (s): 0.0" in page.locator("#tip").inner_text()


def test_a_row_of_the_board_opens_its_record(visit):
    page = visit("site/index.html")
    link = table(page).locator("tbody a", has_text="N=9").first.get_attribute("href")
    name, _, anchor = link.partition("#")
    record = visit(f"site/{name}").locator(f"#{anchor}")
    assert "CoDe N=9" in record.locator("h2").inner_text()
    assert "samples.latency_s" in record.inner_text()
    assert record.locator("th", has_text="round 3").count() == 1


def test_a_hostile_bundle_is_text_on_the_board(visit):
    page = visit("site/index.html")
    assert any(f"Theirs {HOSTILE}" in text for text in column(page, 1))
    assert choose_rows(page, "machine", f"GPU {HOSTILE}") == 5
    assert choose_rows(page, "from outside", "plugin") == 1
    assert "bad.zip" in page.locator("#left").inner_text()
    href = table(page).locator("tbody tr:not([hidden]) a").get_attribute("href")
    record = visit(f"site/{href.partition('#')[0]}")
    for shown in (page, record):
        assert shown.locator("img[onerror]").count() == 0
        assert shown.locator("script:not([type])").count() == 1
