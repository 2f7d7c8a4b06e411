"""Take the pictures of the desk in docs/, from a served instance with made-up people: `python tests/pictures.py`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory

from browsing import Site, button_link, press
from desk_door import MARY
from peers import MailServer
from playwright.sync_api import Page, sync_playwright
from server_process import ServerProcess

DOCS = Path(__file__).parent.parent / "docs"
ADA = "ada@example.org"


def take(page: Page, name: str) -> None:
    page.set_viewport_size({"width": 900, "height": 1000})
    page.screenshot(path=DOCS / f"desk-{name}.png")


def main() -> None:
    with TemporaryDirectory() as folder, MailServer() as mail_server:
        peer = {"mail_server": mail_server.host, "mail_port": mail_server.port}
        with ServerProcess(Path(folder), rate_limits="off", **peer) as server, sync_playwright() as playwright:
            site = Site(server.url, mail_server, server.instance_path)
            site.post("feedback", 201, session=site.register(ADA), message="The map is hard to read at night.")
            site.tiles("desk", "invite", MARY, "--name", "Mary Somerville")
            received_on = datetime.now(UTC).date() - timedelta(days=40)
            site.tiles("data", "requests", "add", ADA, "--kind", "access", "--way", "letter", "--received", received_on,
                       "--identity", "Signature")  # fmt: skip
            site.tiles("data", "erase", ADA, "--yes")
            browser = playwright.chromium.launch(executable_path=which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(color_scheme="light")
            page.goto(f"{site.url}/desk/sign-in")
            page.get_by_label("Email address").fill(MARY)
            press(page, "Email me a link")
            page.goto(button_link(site.mail(MARY)))
            press(page, "Sign in")
            take(page, "requests")
            page.goto(f"{site.url}/desk/people")
            page.get_by_label("Address or name").fill("ada")
            press(page, "Find")
            page.get_by_role("link", name=ADA).click()
            take(page, "person")


if __name__ == "__main__":
    main()
