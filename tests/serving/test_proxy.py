"""The shipped nginx configuration without the service: TLS, redirects, and which requests are sent again."""

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from peers import free_port
from reverse_proxy import HOST, Dropper, Proxy

from backend.errors import Overloaded


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with Proxy(tmp_path_factory.mktemp("proxy") / "nginx", [free_port(), free_port()]) as proxy:
        yield proxy


def test_nginx_takes_the_configuration(proxy: Proxy) -> None:
    (proxy.folder / "temporary").mkdir()
    tested = subprocess.run([*proxy.command, "-t"], capture_output=True, text=True, timeout=20, check=False)
    shutil.rmtree(proxy.folder / "temporary")
    assert tested.returncode == 0, tested.stderr


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_is_spoken_in_its_two_sound_versions_and_http_2_in_it(proxy: Proxy, version: ssl.TLSVersion) -> None:
    context = proxy.context
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with proxy.connect(context) as connection:
        assert connection.selected_alpn_protocol() == "h2"


@pytest.mark.parametrize("name", ["TLSv1", "TLSv1_1"])
def test_a_broken_version_of_tls_is_refused(proxy: Proxy, name: str) -> None:
    context = proxy.context
    with pytest.warns(DeprecationWarning, match=name):
        context.minimum_version = context.maximum_version = ssl.TLSVersion[name]
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match=r"(?i)alert|version"):
        proxy.connect(context)


def test_a_request_in_clear_is_redirected_to_tls_except_the_challenge_of_a_certificate(proxy: Proxy) -> None:
    for method in ("GET", "POST"):
        response = httpx2.request(method, f"{proxy.clear_url}/privacy?a=b", headers={"Host": "elsewhere.example"})
        assert (response.status_code, response.headers["Location"]) == (301, f"https://{HOST}/privacy?a=b")
    challenge = proxy.folder / ".well-known" / "acme-challenge" / "proof"
    challenge.parent.mkdir(parents=True)
    challenge.write_text("it is ours")
    assert httpx2.get(f"{proxy.clear_url}/.well-known/acme-challenge/proof").text == "it is ours"
    assert httpx2.get(f"{proxy.clear_url}/.well-known/acme-challenge/../../certificate.pem").status_code == 301


@pytest.mark.parametrize(("method", "times"), [("GET", 2), ("PUT", 2), ("DELETE", 2), ("POST", 1), ("PATCH", 1)])
def test_a_request_goes_to_the_other_server_only_if_it_may_be_sent_twice(
    tmp_path: Path, method: str, times: int
) -> None:
    with Dropper() as first, Dropper() as second, Proxy(tmp_path / "nginx", [first.port, second.port]) as proxy:
        with proxy.client() as http:
            response = http.request(method, "/v1/account")
        assert (first.requests + second.requests)[method] == times
    assert (response.status_code, response.headers["Content-Type"]) == (503, "application/problem+json")
    assert response.json()["type"] == f"https://{HOST}/problems/{Overloaded.code}"
    assert (response.json()["code"], response.json()["title"]) == (Overloaded.code, Overloaded.title)
    assert response.headers["Retry-After"] == "5"
    assert response.headers.get_list("Cache-Control") == ["no-store"]
