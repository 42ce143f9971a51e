"""A real browser that looks at the page.

Playwright has a loop of its own and its objects belong to one thread, so a test hands a whole visit to a thread
(`trio.to_thread.run_sync`) and lets the server and its clients live in Trio meanwhile.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Locator, Page, ViewportSize, expect, sync_playwright

__all__ = ["ARTEFACTS", "Visit", "needs_chromium", "visiting"]

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")

ARTEFACTS = Path(os.environ.get("TEST_ARTEFACTS") or Path(__file__).with_name("artefacts"))
"""Where screenshots are kept."""

PATIENCE = 60_000
"""Milliseconds that something may take to be seen; others may use the machine, too."""

LONG_TASKS = """
window.longTasks = [];
new PerformanceObserver(list => {
  for (const entry of list.getEntries()) window.longTasks.push(entry.duration);
}).observe({type: "longtask"});
"""

# All text that can be seen, and what it stands on: (its contrast, the text) where there is too little of it (WCAG AA).
TOO_FAINT = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([...rgb]) => {
    const [r, g, b] = rgb.slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const paper = element => {
    for (; element; element = element.parentElement) {
      const colour = rgba(getComputedStyle(element).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!own || !element.checkVisibility({opacityProperty: true})) continue;
    if (element.matches(":disabled, [aria-disabled=true]")) continue;
    const one = luminance(rgba(getComputedStyle(element).color)), other = luminance(paper(element));
    const contrast = (Math.max(one, other) + .05) / (Math.min(one, other) + .05);
    if (contrast < 4.5) faint.push([contrast, element.textContent]);
  }
  return faint;
}
"""


@dataclass
class Visit:
    """A page that is open, and what went wrong on it: console messages, exceptions, requests that failed."""

    page: Page
    problems: list[str] = field(default_factory=list)

    def find(self, id: str) -> Locator:
        """The element of that id."""
        return self.page.locator(f"#{id}")

    def rows(self) -> Locator:
        """The requests that are in view."""
        return self.page.locator("#rows .row")

    def longest_task(self) -> float:
        """Milliseconds for which the page was held at the longest since the last time; 0 if never for more than 50."""
        duration: float = self.page.evaluate("() => Math.max(0, ...window.longTasks.splice(0))")
        return duration

    def too_faint(self) -> list[tuple[float, str]]:
        """Text with less contrast than 4.5 : 1."""
        faint: list[tuple[float, str]] = self.page.evaluate(TOO_FAINT)
        return faint

    def keep(self, name: str) -> Path:
        """Take a picture of the whole page."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        self.page.screenshot(path=path, full_page=True)
        return path


@contextmanager
def visiting(
    port: int, *, scheme: Literal["light", "dark"] = "light", width: int = 1280, height: int = 1000
) -> Iterator[Visit]:
    """Open the page in a browser without a past. Blocks.

    Raises `AssertionError` at the end if there were problems that the test has not taken from the list, or if the page
    has asked anybody but its own server.
    """
    origin = f"http://127.0.0.1:{port}"
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, as whom containers run tests.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=os.geteuid() != 0)
        try:
            page = browser.new_page(color_scheme=scheme, viewport=ViewportSize(width=width, height=height))
            visit = Visit(page)
            problems, asked = visit.problems, list[str]()
            page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
            page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
            page.on("requestfailed", lambda request: problems.append(f"failed: {request.method} {request.url}"))
            page.on("request", lambda request: asked.append(request.url))
            page.add_init_script(LONG_TASKS)
            page.goto(origin)
            yield visit
            found = list(problems)
        finally:
            browser.close()
    found += [f"elsewhere: {url}" for url in asked if not url.startswith((f"{origin}/", "data:"))]
    assert not found, found
