"""Debian's nginx with the shipped configuration."""

import getpass
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx2
import trustme
from peers import client_context, free_port, wait_for

DEPLOYMENT = Path(__file__).parents[1] / "backend" / "deployment"
HOST = "accounts.tiles.test"


def replaced(text: str, changes: dict[str, str]) -> str:
    """Return the text with each key replaced; fail if one is missing."""
    for old, new in changes.items():
        assert old in text, f"{old} is not in the configuration"
        text = text.replace(old, new)
    return text


class Proxy:
    """nginx with the shipped configuration, except ports, folders, the host and the servers."""

    def __init__(self, folder: Path, upstreams: list[int], more: str = "") -> None:
        self.folder, self.port, self.clear_port = folder, free_port(), free_port()
        self.url, self.clear_url = f"https://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.clear_port}"
        program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        assert program, "install nginx (apt-get install nginx) to run this test"
        (folder / "temporary").mkdir(parents=True)
        self._write(upstreams, more)
        self.command = [program, "-c", str(folder / "nginx.conf"), "-p", str(folder), "-e", str(folder / "error.log"),
                        "-g", f"daemon off; pid {folder / 'pid'};"]  # fmt: skip

    def _write(self, upstreams: list[int], more: str) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.folder / "authority.pem")
        certificate = authority.issue_cert(HOST, "127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(self.folder / "certificate.pem")
        changes = {
            "user www-data;": f"user {getpass.getuser()};",
            "/var/log/nginx/": f"{self.folder}/",
            "/var/www/html": str(self.folder),
            "listen 80 ": f"listen 127.0.0.1:{self.clear_port} ",
            "listen 443 ": f"listen 127.0.0.1:{self.port} ",
            # A test machine may have no IPv6.
            "listen [::]:80 ": f"listen unix:{self.folder}/clear ",
            "listen [::]:443 ": f"listen unix:{self.folder}/tls ",
        }
        (self.folder / "nginx.conf").write_text(replaced((DEPLOYMENT / "nginx.conf").read_text(), changes))
        (shipped,) = re.findall(r"^    server .*\n", site := (DEPLOYMENT / "nginx-site.conf").read_text(), re.MULTILINE)
        changes = {
            "/etc/letsencrypt/live/accounts.example.org/fullchain.pem": str(self.folder / "certificate.pem"),
            "/etc/letsencrypt/live/accounts.example.org/privkey.pem": str(self.folder / "certificate.pem"),
            "accounts.example.org": HOST,
            shipped: "".join(replaced(shipped, {"127.0.0.1:8000": f"127.0.0.1:{port}"}) for port in upstreams),
        }
        paths = [f"{name}_temp_path {self.folder}/temporary;\n"
                 for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")]  # fmt: skip
        (self.folder / "nginx-site.conf").write_text(replaced(site, changes) + "".join(paths) + more)

    @property
    def logs(self) -> str:
        """The output of nginx: both logs and its terminal."""
        return "".join((self.folder / name).read_text() for name in ("access.log", "error.log", "terminal"))

    @property
    def context(self) -> ssl.SSLContext:
        return client_context(self.folder / "authority.pem")

    def client(self, address: str = "127.0.0.1", **options: Any) -> httpx2.Client:
        """Return a client at this address of the loopback."""
        transport = httpx2.HTTPTransport(verify=self.context, local_address=address)
        return httpx2.Client(base_url=self.url, transport=transport, timeout=30, **options)

    def connect(self, context: ssl.SSLContext | None = None, address: str = "127.0.0.1") -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=30, source_address=(address, 0))
        try:
            return (context or self.context).wrap_socket(raw, server_hostname=HOST)
        except BaseException:
            raw.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def _is_up(self) -> bool:
        assert self._process.poll() is None, (self.folder / "terminal").read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def __enter__(self) -> Self:
        with (self.folder / "terminal").open("wb") as terminal:
            self._process = subprocess.Popen(self.command, stdout=terminal, stderr=terminal)
        wait_for(self._is_up)
        # Without this folder, nginx cannot write a body to a file.
        shutil.rmtree(self.folder / "temporary")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)


class Dropper:
    """Reads requests, counts them by method, and disconnects without a response."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.requests: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._drop)

    def _drop(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                method = connection.recv(65536).split(b" ")[0].decode()
                if not method:
                    return
                self.requests[method] += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(20)
        self._listener.close()
