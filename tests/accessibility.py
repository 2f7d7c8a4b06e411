"""Checks of a page in a real browser by axe-core, and of its width."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from axe_playwright_python.base import AXE_SCRIPT, AxeResults
from playwright.sync_api import Browser, Page, Route
from werkzeug.test import TestResponse

STATIC = Path(__file__).parents[1] / "backend" / "web" / "static"
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}


def violations(page: Page, *, without: tuple[str, ...] = ()) -> list[str]:
    """Return the violations in a page, in the light scheme on a phone and in the dark one on a desktop."""
    page.evaluate(AXE_SCRIPT)
    options = {"resultTypes": ["violations"], "rules": {rule: {"enabled": False} for rule in without}}
    reports = []
    for scheme, size in (("light", PHONE), ("dark", DESKTOP)):
        # A colour that fades has no contrast yet.
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        page.set_viewport_size(size)  # type: ignore[arg-type]
        results = AxeResults(page.evaluate("options => axe.run(options)", options))
        assert results.response["passes"]
        reports += [results.generate_report()] if results.violations_count else []
    return reports


def looks(browser: Browser, responses: Mapping[str, TestResponse]) -> dict[str, list[str]]:
    """Show responses in a browser; return the violations of each and the screen widths at which it scrolls.

    The name of a response may end with a fragment of its address.
    """
    # The pages' policy would refuse axe-core.
    with browser.new_context(bypass_csp=True) as context:
        page = context.new_page()
        shown: list[TestResponse] = []

        def serve(route: Route) -> None:
            path = urlsplit(route.request.url).path
            if path.startswith("/static/"):
                route.fulfill(path=STATIC / path.removeprefix("/static/"))
            else:
                route.fulfill(status=shown[-1].status_code, headers=dict(shown[-1].headers), body=shown[-1].data)

        page.route("**/*", serve)
        reports = {}
        for number, (name, response) in enumerate(responses.items()):
            shown.append(response)
            page.goto(f"http://accounts.tiles.test/{number}#{name.partition('#')[2]}")
            reports[name] = violations(page) + too_wide(page)
        return {name: report for name, report in reports.items() if report}


def too_wide(page: Page) -> list[str]:
    """Return the widths of a screen at which a page scrolls sideways."""
    reports = []
    for width in (320, 390, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        needed = page.evaluate("document.documentElement.scrollWidth")
        reports += [f"{needed} pixels at {width}"] if needed > width else []
    return reports
