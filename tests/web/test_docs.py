"""The documentation at /docs: its curl commands work unchanged, and its errors are those of the service."""

import html
import re
import subprocess
from collections.abc import Iterator

import httpx2
import pytest
from apps import KEY, dispose, make_app, make_settings
from caller import PURPOSES, Caller
from conftest import needs
from contract import DOCUMENT, OPERATIONS
from flask.testing import FlaskClient
from peers import MailServer
from playwright.sync_api import Page
from server_process import ServerProcess
from support import Service, any_database

from backend import clock
from backend.errors import problems
from backend.privacy import policy
from backend.web.examples import ID

SCHEMAS = DOCUMENT["components"]["schemas"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("docs"), rate_limits="off", secret_keys=KEY) as server:
        yield server


@pytest.fixture
def caller(server: ServerProcess, mail_server: MailServer) -> Iterator[Caller]:
    """A client with an account at the server."""
    app = make_app(make_settings(server.instance_path, f"sqlite:///{server.instance_path / 'tiles.sqlite3'}"))
    with app.app_context():
        policy.publish(version="2026-01", effective_on=clock.now().date(), text="We store little.")
    yield Caller(Service(app, mail_server))
    dispose(app)


def commands(page: str) -> dict[str, str]:
    """Return the curl command of each operation, by the operation's name."""
    pattern = r'<section class="tile operation" id="(\w+)"(?:(?!</section>).)*?<code class="curl">(.*?)</code>'
    return {name: html.unescape(command) for name, command in re.findall(pattern, page, re.DOTALL)}


def completed(command: str, path: str, caller: Caller) -> str:
    """Replace the placeholders of a command, as its reader does."""
    mine = {"Bearer TOKEN": caller.headers["Authorization"], ID: str(caller.session.id)}
    if path in PURPOSES:
        mine["CODE-FROM-THE-EMAIL"] = caller.token(PURPOSES[path])
    if "receipts" in path:
        mine["RECEIPT-FROM-THE-EMAIL"] = caller.receipt()
    if path == "/v1/sessions":
        mine["ada@example.org"] = caller.email
    for placeholder, value in mine.items():
        command = command.replace(placeholder, value)
    return command


def test_every_curl_command_of_the_docs_works(server: ServerProcess, caller: Caller) -> None:
    documented = commands(httpx2.get(f"{server.url}/docs").text)
    assert documented.keys() == {described["operationId"] for described in OPERATIONS.values()}
    curl = f"{needs('curl')} --silent --show-error --output /dev/null --write-out '%{{http_code}}'"
    for (_, path), described in OPERATIONS.items():
        command = completed(documented[described["operationId"]], path, caller)
        assert server.url in command
        status = subprocess.check_output(["sh", "-c", command.replace("curl", curl, 1)], text=True)
        assert status in described["responses"], command
        assert int(status) < 300, command
        caller.renew()


def test_a_click_selects_the_whole_command(server: ServerProcess, page: Page) -> None:
    page.goto(f"{server.url}/docs")
    command = page.locator("#change_account .curl")
    command.click()
    assert page.evaluate("getSelection().toString()").strip() == command.inner_text()


@any_database
def test_the_docs_say_once_what_to_do_about_each_error(http: FlaskClient) -> None:
    page = http.get("/docs").text
    errors, operations = page.split('id="contents"')[1].split('<section class="tile operation"', 1)
    for code, problem in problems().items():
        row = rf'<a href="/problems/{code}"><code>{code}</code></a></th>\s*<td [^>]*>{problem.status}</td>'
        assert re.search(row, errors)
    assert not any(problem.title in html.unescape(operations) for problem in problems().values())


@any_database
def test_the_docs_show_each_operation_with_its_fields_and_link_its_error_codes(http: FlaskClient) -> None:
    page = html.unescape(http.get("/docs").text)
    for described in OPERATIONS.values():
        (section,) = re.findall(rf'id="{described["operationId"]}"(.*?)</section>', page, re.DOTALL)
        assert described["summary"].rstrip(".") in section
        codes = set(re.findall(r"`([a-z-]+)`", " ".join(r["description"] for r in described["responses"].values())))
        assert set(re.findall(r'href="/problems/([a-z-]+)"', section)) == codes
    schemas = {name: schema for name, schema in SCHEMAS.items() if name not in {"Problem", "FieldError"}}
    assert all(f"{name}</code>" in page for schema in schemas.values() for name in schema.get("properties", {}))
