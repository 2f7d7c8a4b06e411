"""Reading and checking any body takes little time, because no limit has been charged yet."""

import json
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product

import pytest
from support import Service, any_database

from backend.errors import Problem
from backend.serving import server
from backend.web import bodies, forms, schemas
from backend.web.api import operations
from backend.web.bodies import Body, read_json

MOST_MS = 5
KIB = 1024
# A fixed piece of work, and the milliseconds of processor time that it takes on the machine for which the 5 ms are
# meant. Another machine, or one that is busy with other tests, may be slower.
YARDSTICK = json.dumps({f"field {number}": number for number in range(500)})
YARDSTICK_ROUNDS = 10
YARDSTICK_MS = 1.1
MODELS = sorted({operation.body for operation in operations.declared if operation.body}, key=lambda body: body.__name__)
# Each kind of field once: a model that has it, its name, and the maximum number of code points that are examined.
FIELDS = [
    (schemas.RegistrationRequest, "name", 800), (schemas.ErasureRequest, "email", 250),
    (schemas.PasswordResetConfirmation, "password", 1024),
    (schemas.FeedbackRequest, "message", 4000), (schemas.TokenRequest, "token", 4000),
    (schemas.AccountUpdate, "accepted_policy", 4000),
]  # fmt: skip
some_or_all = pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.long, id="all"), pytest.param(37, id="some")]
)


# Every character that normalizing may reorder, decompose or compose.
SUSPECTS = [
    character
    for character in map(chr, range(0x110000))
    if unicodedata.category(character)[0] == "M" or unicodedata.decomposition(character)
]


def kinds() -> list[str]:
    """Return one character of each kind that normalizing reorders, decomposes or composes alike."""
    alike = {}
    for character in SUSPECTS:
        decomposed = unicodedata.normalize("NFKD", character)
        classes = tuple(unicodedata.combining(part) for part in decomposed)
        alike[unicodedata.category(character), classes, unicodedata.normalize("NFKC", character) == character] = (
            character
        )
    return list(alike.values())


@pytest.fixture
def limit(model: type[Body]) -> int:
    """Return the maximum size of a body in bytes."""
    return bodies.most_bytes(path_of(model))


def path_of(model: type[Body]) -> str:
    return next(operation.path for operation in operations.declared if operation.body is model)


def slowness() -> float:
    """Return how many times slower this machine is than the reference machine."""
    begun = time.thread_time()
    for _ in range(YARDSTICK_ROUNDS):
        json.loads(YARDSTICK)
    return max(1.0, (time.thread_time() - begun) * 1000 / YARDSTICK_MS)


def milliseconds(read: Callable[[], object], most: float = MOST_MS) -> float:
    """Return the processor time of a refusal or an acceptance, in milliseconds of the reference machine.

    If one try takes too long, return the shortest of several.
    """
    shortest = yardstick = float("inf")
    for _ in range(20):
        begun = time.thread_time()
        with suppress(Problem):
            read()
        shortest = min(shortest, (time.thread_time() - begun) * 1000)
        if shortest <= most:
            return shortest
        yardstick = min(yardstick, slowness())
    return shortest / yardstick


def reading(service: Service, model: type[Body], body: bytes) -> float:
    environ = {"CONTENT_TYPE": "application/json", bodies.ARRIVED: bodies.Arrived(body, bodies.FEEDBACK_BODY_BYTES)}
    with service.app.test_request_context(path_of(model), method="POST", environ_overrides=environ):
        return milliseconds(lambda: read_json(model))


def filled(names: list[str], text: str, limit: int) -> bytes:
    """Return an object whose fields repeat a text as often as the limit allows."""
    frame = len(json.dumps(dict.fromkeys(names, "")).encode())
    each = (limit - frame) // len(names) // len(text.encode())
    return json.dumps(dict.fromkeys(names, text * each), ensure_ascii=False).encode()


@any_database
@pytest.mark.parametrize(
    ("model", "field", "length", "characters"),
    [pytest.param(*field, kinds(), id=f"{field[1]}, each kind") for field in FIELDS]
    + [pytest.param(*field, SUSPECTS, id=f"{field[1]}, all", marks=pytest.mark.long) for field in FIELDS[:3]],
)
def test_no_character_makes_a_field_slow(
    service: Service, model: type[Body], field: str, length: int, characters: list[str]
) -> None:
    slow = {}
    for character in characters:
        body = filled([field], character, length * len(character.encode()) + len(f'{{"{field}": ""}}'))
        if (spent := reading(service, model, body)) > MOST_MS:
            slow[f"U+{ord(character):04X}"] = spent
    assert slow == {}


def texts() -> Iterator[str]:
    """Yield texts to repeat: marks that are sorted, characters that expand, delimiters of addresses."""
    marks = ["\u0315", "\u0300", "\u0334", "\u0344", "\u0f71", "\u0f73", "\u0f75", "\u0f81", "\u3099", "\uff9e"]
    yield from (first + second for first, second in product(marks, marks) if first != second)
    yield from ("e" + first * 14 + second * 14 for first, second in product(marks, marks))
    yield from ("e" + first * 100 + second * 100 for first, second in product(marks[5:], marks[5:]))
    yield from ("\x00", "\ufdfa", "\U0001d160", "\u1f84", "\uac01", "\u1112\u1161\u11ab", "\u0660", "\u200d", "e\u0301")
    yield from ("a", "a.", "a@", "xn--", "\u00e9.", '\\"', "=", "_", "-", "+a", "%", " ", "\t", "<a@b>", "\U0010ffff")


@any_database
@some_or_all
@pytest.mark.parametrize("model", MODELS, ids=[model.__name__ for model in MODELS])
def test_no_text_makes_an_operation_slow(service: Service, limit: int, model: type[Body], step: int) -> None:
    names = [name for name, field in model.model_fields.items() if field.annotation is not bool]
    # The full size of a body, and the longest text that no field refuses for its length.
    bodies_ = ((text, filled(names, text, room)) for text in [*texts()][::step] for room in (limit, 2 * KIB, KIB // 2))
    slow = {ascii(text[:4]): spent for text, body in bodies_ if (spent := reading(service, model, body)) > MOST_MS}
    assert slow == {}


def structures(limit: int) -> dict[str, bytes]:
    """Return bodies that a decoder could be slow at."""

    def repeated(start: str, part: str, end: str) -> bytes:
        return (start + part * ((limit - len(start) - len(end)) // len(part)) + end).encode()

    names = ",".join(f'"{number:x}":0' for number in range(limit))[: limit - 2].rpartition(",")[0]
    return {
        "arrays": repeated("", "[", ""),
        "objects": repeated("", '{"a":', ""),
        "allowed depth": repeated('{"name":', "[" * 100 + "]" * 100 + ",", "0}"),
        "a digit": repeated('{"name":', "1", "}"),
        "an exponent": repeated('{"name":1e', "9", "}"),
        "a fraction": repeated('{"name":0.', "1", "}"),
        "numbers": repeated('{"name":[', "1" * 4200 + ",", "1]}"),
        "zeros": repeated('{"name":[', "0,", "0]}"),
        "empty objects": repeated('{"name":[', "{},", "{}]}"),
        "fields": f"{{{names}}}".encode(),
        "one name": repeated("{", '"name":0,', '"name":0}'),
        "escapes": repeated('{"name":"', "\\u0f75", '"}'),
        "pairs of surrogates": repeated('{"name":"', "\\ud83d\\ude00", '"}'),
        "a long name": repeated('{"', "a", '":0}'),
        "an escaped name": repeated('{"', "\\u0f75", '":0}'),
        "white space": repeated("{", " ", "}"),
    }


@any_database
@pytest.mark.parametrize("model", MODELS, ids=[model.__name__ for model in MODELS])
def test_no_structure_makes_an_operation_slow(service: Service, limit: int, model: type[Body]) -> None:
    times = {name: reading(service, model, body) for name, body in structures(limit).items()}
    assert {name: spent for name, spent in times.items() if spent > MOST_MS} == {}


@any_database
@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=b"])
def test_no_form_is_slow_to_read(service: Service, content_type: str) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="token"\r\n\r\n\r\n'
    parts = [
        b"a&", b"a=b&", b"token=a&", b"%", b"+", b"%f0%9f%98%80", "\u0f75".encode(), b"a*0=b;", head, b"--b\r\n",
        b"\r\n-",
    ]  # fmt: skip

    def read() -> None:
        forms.token()
        with suppress(Problem):
            forms.email()
        forms.new_password()

    for part, start in product(parts, (b"", b"email=", b"password=", head)):
        body = (start + part * (16 * KIB))[: 16 * KIB]
        with service.app.test_request_context("/", method="POST", data=body, content_type=content_type):
            assert milliseconds(read) <= MOST_MS, (start, part)


@any_database
def test_every_public_page_is_quick(service: Service) -> None:
    with service.app.app_context():
        pages = [
            rule.rule
            for rule in service.app.url_map.iter_rules()
            if "GET" in (rule.methods or ()) and not rule.arguments
        ]
    assert len(pages) > 15
    http = service.http
    slow = {}
    # Only the operator can read the metrics.
    for path in set(pages) - {"/metrics"}:
        http.get(path)
        if (spent := milliseconds(lambda path=path: http.get(path).get_data())) > MOST_MS:  # type: ignore[misc]
            slow[path] = spent
    assert slow == {}


def test_no_cache_of_sent_text_is_shared_between_clients() -> None:
    """No function that receives text from clients caches it."""
    assert server
    caches = {
        f"{module.__name__}.{name}"
        for module in list(sys.modules.values())
        if module.__name__.startswith("backend.")
        for name, value in vars(module).items()
        if type(value).__name__ == "_lru_cache_wrapper" and value.__module__ == module.__name__
    }
    # These cache our own files, costs and sender, and the time of a second.
    assert caches == {
        "backend.logs._to_the_second",
        "backend.security.password_rules._common_passwords",
        "backend.security.hashing._hash_of_nobody",
        "backend.mail.composing.written_sender",
        "backend.mail.messages._templates",
        "backend.accounts.feedback._insertion",
    }
