"""Checks of a page in a real browser by axe-core."""

from axe_playwright_python.base import AXE_SCRIPT, AxeResults
from playwright.sync_api import Page

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}


def violations(page: Page, *, without: tuple[str, ...] = ()) -> list[str]:
    """Return the violations in a page, in the light scheme on a phone and in the dark one on a desktop."""
    page.evaluate(AXE_SCRIPT)
    options = {"resultTypes": ["violations"], "rules": {rule: {"enabled": False} for rule in without}}
    reports = []
    for scheme, size in (("light", PHONE), ("dark", DESKTOP)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size(size)  # type: ignore[arg-type]
        results = AxeResults(page.evaluate("options => axe.run(options)", options))
        assert results.response["passes"]
        reports += [results.generate_report()] if results.violations_count else []
    return reports


def is_wide(page: Page) -> bool:
    """Return whether a page is wider than the smallest phone."""
    page.set_viewport_size({"width": 320, "height": 700})
    wide: bool = page.evaluate("document.documentElement.scrollWidth > 320")
    return wide
