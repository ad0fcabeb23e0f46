"""The report as a browser shows it: headless Chromium, from file://."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagl_cli.errors import DaglError
from dagl_cli.measuring import report
from dagl_cli.measuring.report import Curve, Picture, Table

Show = Callable[..., Any]

HOSTILE = [
    "</script><script>document.title='owned'</script>.png",
    "\"'><img src=http://127.0.0.1:9/x onerror=document.title='owned'>.png",
    "two\nlines\u2028\u2029 and \0 and \udcff.png",
    "\u202egnp.${x} $title &amp;",
]

pictures = [
    Picture(
        name,
        {
            "input": np.full((20, 30, 3), 40, np.uint8),
            "restored": np.full((20, 30, 3), (43, 40, 39), np.uint8),
            "clean": np.full((20, 30), 40, np.uint8),
        },
        {"input": {"PSNR": 20.324, "SSIM": 0.5}, "restored": {"PSNR": float("inf"), "SSIM": 0.91234}},
    )
    for name in ["first.png", *HOSTILE]
]
FEW: list[list[report.Cell]] = [
    ["b10", 9.0, 100], ["b9", None, -3], ["first.png", float("inf"), None], ["a", 10.25, 20],
]  # fmt: skip
tables = [
    Table(
        "Images <b>",
        ["image", "PSNR", "n"],
        FEW + [[name, float("nan"), 1] for name in HOSTILE],
    )
]
curves = [
    Curve("Loss", "step", "loss", {"a<b": [(0, 1.0), (100, 0.5), (200, 0.25)], "c": [(0, 2.0), (200, float("nan"))]}),
    Curve("Empty", "x", "y", {"none": []}),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'dagl[test]'")
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))
    if not (path := next(filter(None, found), None)):
        pytest.skip("needs Chromium or Chrome on the PATH")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a report; afterwards it must have asked for nothing and complained about nothing."""
    events: list[str] = []
    contexts = []

    def open_page(text: str, **options: Any) -> Any:
        path = tmp_path / "report.html"
        report.save(path, text)
        contexts.append(browser.new_context(**{"viewport": {"width": 1000, "height": 900}} | options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: events.append(message.text))
        page.on("pageerror", lambda error: events.append(str(error)))
        page.on("request", lambda r: events.append(r.url) if not r.url.startswith(("data:", path.as_uri())) else None)
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert events == []


@pytest.fixture(scope="module")
def full() -> str:
    return report.html("Tests & <titles>", ["A note."], tables, curves, pictures)


def column(page: Any, i: int) -> list[str]:
    return page.locator(f".sortable tbody tr td:nth-child({i + 1})").all_inner_texts()


def stage(page: Any) -> dict[str, float]:
    page.locator("#stage").scroll_into_view_if_needed()
    return page.locator("#stage").bounding_box()


def test_tables_sort_by_value_and_keyboard(show: Show, full: str) -> None:
    page = show(full)
    heads = page.locator(".sortable th button")
    heads.nth(1).click()
    assert column(page, 1) == ["9.00", "10.25", "∞"] + ["–"] * 5
    assert page.locator(".sortable th").nth(1).get_attribute("aria-sort") == "ascending"
    heads.nth(1).press("Enter")
    assert column(page, 1) == ["∞", "10.25", "9.00"] + ["–"] * 5
    heads.nth(2).press("Space")
    assert column(page, 2) == ["−3", "1", "1", "1", "1", "20", "100", "–"]
    assert page.locator("th[aria-sort]").count() == 1
    heads.nth(0).click()
    names = column(page, 0)
    assert names.index("a") < names.index("b9") < names.index("b10"), "numbers within names count as numbers"


def test_hostile_names_are_only_shown(show: Show, full: str) -> None:
    page = show(full)
    assert page.title() == "Tests & <titles>"
    assert page.locator(".scroll").first.locator("xpath=..").locator("h2").inner_text() == "Images <b>"
    shown = page.evaluate("data.pictures.map(p => p.name)")
    assert shown[1:3] == HOSTILE[:2]
    assert shown[3].startswith("two\nlines\u2028\u2029 and \0 and ")
    assert page.locator("script").count() == 2
    assert page.locator("img").count() == 2
    for i, name in enumerate(HOSTILE[:2]):
        page.locator(".open", has_text=name).click()
        assert page.locator("#name").inner_text().startswith(name)
        assert page.locator("#picture").input_value() == str(i + 1)


def test_divider(show: Show, full: str) -> None:
    page = show(full)
    box = stage(page)
    y = box["y"] + box["height"] / 2
    handle = page.locator("#handle")
    assert handle.get_attribute("aria-valuenow") == "50"
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, y, steps=3)
    page.mouse.up()
    assert handle.get_attribute("aria-valuenow") == "25"
    page.mouse.move(box["x"] + box["width"] * 0.9, y)
    assert handle.get_attribute("aria-valuenow") == "25", "moves only while it is held"
    assert page.locator("#over").evaluate("e => e.style.clipPath").startswith("inset(0px 0px 0px 25")
    handle.press("ArrowRight")
    assert handle.get_attribute("aria-valuenow") == "27"
    handle.press("End")
    assert handle.get_attribute("aria-valuenow") == "100"


def test_zoom_moves_both_sides_and_keeps_the_place_under_the_pointer(show: Show, full: str) -> None:
    page = show(full)
    box = stage(page)
    transforms = "['under-image', 'over-image'].map(id => document.getElementById(id).style.transform)"
    at = (box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)

    def pixel() -> float:
        rectangle = page.locator("#under-image").bounding_box()
        return (at[0] - rectangle["x"]) / rectangle["width"] * 30

    page.mouse.move(*at)
    before, fitted = pixel(), page.locator("#zoom").inner_text()
    page.mouse.wheel(0, -300)
    page.wait_for_function(f"document.getElementById('zoom').textContent !== '{fitted}'")
    assert pixel() == pytest.approx(before, abs=0.05)
    left, right = page.evaluate(transforms)
    assert left == right
    assert page.locator("#under-image").evaluate("e => getComputedStyle(e).imageRendering") == "pixelated"
    page.mouse.down()
    page.mouse.move(at[0] - 40, at[1] - 20, steps=2)
    page.mouse.up()
    assert pixel() > before
    assert page.evaluate(transforms)[0] == page.evaluate(transforms)[1] != left
    assert page.locator("#handle").get_attribute("aria-valuenow") == "50", "dragging an enlarged picture moves it"
    page.locator("#fit").click()
    assert page.locator("#zoom").inner_text() == fitted
    page.locator("#real").click()
    assert page.locator("#zoom").inner_text() == "100 %"
    page.locator("#larger").click()
    assert page.locator("#zoom").inner_text() == "150 %"
    page.locator("#smaller").click()
    assert page.locator("#zoom").inner_text() == "100 %"


def test_versions_metrics_and_difference(show: Show, full: str) -> None:
    page = show(full)
    assert page.locator("#left-tag").inner_text() == "input"
    assert page.locator("#right-tag").inner_text() == "restored"
    rows = page.locator("#facts tr").all_inner_texts()
    assert [row.split() for row in rows] == [
        ["PSNR", "SSIM"], ["input", "20.32", "0.5000"], ["restored", "∞", "0.9123"], ["clean", "–", "–"],
    ]  # fmt: skip
    page.locator("#right").select_option("clean")
    assert page.locator("#right-tag").inner_text() == "clean"
    assert page.locator("#over-image").get_attribute("alt") == "first.png: clean"
    page.locator("#next").click()
    assert page.locator("#picture").input_value() == "1"
    assert page.locator("#right-tag").inner_text() == "clean", "the next picture shows the same version"
    page.locator("#left").select_option("restored")
    page.locator("#difference").check()
    page.wait_for_function("document.getElementById('hint').textContent.includes('Largest difference: 3 of 255')")
    page.locator("#gain").select_option("16")
    colour = """() => {
        const copy = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
        copy.drawImage(document.getElementById("map"), 0, 0);
        return [...copy.getImageData(7, 7, 1, 1).data]; }"""
    page.wait_for_function(f"({colour})()[0] === 48")
    assert page.evaluate(colour) == [48, 0, 16, 255]
    assert page.locator("#map").is_visible()
    assert not page.locator("#handle").is_visible()
    page.locator("#difference").uncheck()
    assert not page.locator("#map").is_visible()


def test_curves_show_values_under_the_pointer(show: Show, full: str) -> None:
    page = show(full)
    svg = page.locator(".curve svg").first
    box = svg.bounding_box()
    svg.hover(position={"x": box["width"] * 0.52, "y": box["height"] / 2})
    section = page.locator(".curve").first
    assert section.locator(".at").inner_text() == "step 100"
    assert section.locator("li").all_inner_texts() == ["a<b 0.5", "c 2 (at 0)"]
    ticks = section.locator("text").all_text_contents()
    assert {"0", "50", "100", "150", "200", "0.4", "1", "2", "step", "loss"} <= set(ticks)
    page.locator("h1").hover()
    assert section.locator("li").first.inner_text().strip() == "a<b"


def test_dark_mode_and_phone(show: Show, full: str) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = show(full).evaluate(background), show(full, color_scheme="dark").evaluate(background)
    assert sum(map(int, re.findall(r"\d+", light))) > 700 > 120 > sum(map(int, re.findall(r"\d+", dark)))
    page = show(full, viewport={"width": 360, "height": 700}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    box = stage(page)
    page.touchscreen.tap(box["x"] + box["width"] * 0.25, box["y"] + 5)
    assert page.locator("#handle").get_attribute("aria-valuenow") == "25"
    fitted = float(page.locator("#zoom").inner_text().rstrip(" %"))
    fingers, middle = page.context.new_cdp_session(page), box["x"] + box["width"] / 2
    for kind, spread in (("touchStart", 20), ("touchMove", 25), ("touchMove", 40), ("touchEnd", 0)):
        points = [{"x": middle + side * spread, "y": box["y"] + 20} for side in (-1, 1)] if spread else []
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert float(page.locator("#zoom").inner_text().rstrip(" %")) == pytest.approx(2 * fitted, rel=0.01)


def test_without_pictures_there_is_no_viewer(show: Show) -> None:
    page = show(report.html("Only a curve", curves=curves))
    assert not page.locator("#viewer").is_visible()
    assert page.locator(".line").count() == 3


@pytest.mark.parametrize("size", [(1, 1), (1, 17000), (600, 2)])
def test_pictures_of_any_shape_are_stored_exactly(show: Show, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    page = show(report.html("t", pictures=[Picture("p", {"a": pixels, "b": pixels[..., 0]})]))
    stored = page.evaluate(
        """async () => { const image = new Image(); image.src = data.pictures[0].sources[0]; await image.decode();
        const canvas = Object.assign(document.createElement("canvas"), {width: image.width, height: image.height});
        canvas.getContext("2d").drawImage(image, 0, 0);
        return [...canvas.getContext("2d").getImageData(0, 0, image.width, image.height).data]; }"""
    )
    assert np.array_equal(np.reshape(stored, (*size, 4))[..., :3], pixels)


def test_versions_must_have_one_size() -> None:
    versions = {"a": np.zeros((4, 5), np.uint8), "b": np.zeros((5, 4), np.uint8)}
    with pytest.raises(ValueError, match="of 2 sizes"):
        report.html("t", pictures=[Picture("p", versions)])


def test_ticks_are_round_and_inside() -> None:
    for low, high in [(0, 1), (-3, 7), (0, 1e-9), (1e6, 1e6 + 3), (20.4, 30.1), (0, 123456)]:
        ticks = report._ticks(low, high)
        assert 3 <= len(ticks) <= 11
        assert all(low <= tick <= high * (1 + 1e-12) for tick in ticks)


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.html"
    report.save(path, "old")
    report.save(path, "new")
    assert path.read_text() == "new"
    monkeypatch.setattr("os.fsync", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DaglError, match=r"cannot write .*r\.html: No space left on device: "):
        report.save(path, "newer")
    monkeypatch.undo()
    assert path.read_text() == "new"
    with pytest.raises(DaglError, match=r"cannot write .*: No such file or directory: "):
        report.save(tmp_path / "missing" / "r.html", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        report.save(pipe, "text")
        assert read.result(10) == "text"
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]
