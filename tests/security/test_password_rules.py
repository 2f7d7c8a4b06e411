"""Which passwords are refused, and that nearly all others are accepted."""

import base64
import gzip
import random
import sys
import unicodedata
from importlib import resources
from types import FrameType

import pytest
from generating import amount
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.security.password_rules import MAXIMUM, normalize, weaknesses

KINDS = {
    "short": "It is shorter than ",
    "long": "It is longer than ",
    "common": "Many people use this password",
    "personal": "It is built from your name",
    "repetition": "It repeats ",
    "sequence": "Most of it follows ",
}
WORDS = ["anchor", "blanket", "copper", "dolphin", "falcon", "gravel", "hammer", "island", "kettle", "meadow"]
fewer = settings(max_examples=amount(40))
ANY_TEXT = st.text(st.characters(), max_size=2 * MAXIMUM)
WEIRD_TEXT = st.text(
    st.sampled_from("aA1 -\0\n\u0301\u0323\u1e69\ufb03\ufdfaßİ가ᄀ\u3099か山🙂\u200b\ud800"), max_size=40
)


def refused(
    password: str,
    *,
    minimum: int = 15,
    name: str | None = "Ada Lovelace",
    email: str = "countess1815@engines.example",
) -> set[str]:
    """Return the kind of each reason."""
    reasons = weaknesses(password, minimum=minimum, name=name, email=email)
    kinds = [[kind for kind, start in KINDS.items() if reason.startswith(start)] for reason in reasons]
    assert all(len(kind) == 1 for kind in kinds)
    return {kind for (kind,) in kinds}


def long_passphrase() -> str:
    return " ".join(random.Random(64).choices(WORDS, k=MAXIMUM))


def listed() -> list[str]:
    return (
        gzip.decompress(resources.files("backend.security").joinpath("common_passwords.txt.gz").read_bytes())
        .decode()
        .split()
    )


# Length


def test_the_length_counts_code_points_after_nfkc() -> None:
    assert refused("vixen plum quad") == set()
    assert "short" in refused("vixen plum qua")
    assert "short" in refused("vixe\u0301 plum qu")
    assert refused("vixen plum \ufb03") == {"short"}
    assert refused("vixen plum q\ufb03") == set()


def test_the_operator_sets_the_minimum() -> None:
    assert refused("vixen plum", minimum=8) == set()
    assert refused("vixen plum", minimum=11) == {"short"}
    assert "11" in weaknesses("vixen plum", minimum=11, name=None, email="a@b.example")[0]


def test_the_empty_password_is_only_too_short() -> None:
    assert refused("") == {"short"}


@pytest.mark.parametrize("length", [64, MAXIMUM])
def test_a_long_passphrase_passes(length: int) -> None:
    assert refused(long_passphrase()[:length]) == set()


@pytest.mark.parametrize(
    "password",
    [long_passphrase()[: MAXIMUM + 1], "a" * 16_384, "ab" * 8_192, "1qaz" * 4_096, "a" + "\u0301\u0323" * 4_000,
     "\ufdfa" * 15, "\ufdfa" * 5_000, "🙂" * 4_096, "\u1f80\u0301" * 2_700],
)  # fmt: skip
def test_a_password_that_is_too_long_is_not_examined_further(password: str) -> None:
    assert refused(password) == {"long"}


def test_a_password_that_composes_to_the_maximum_is_not_too_long() -> None:
    longest_decomposition = unicodedata.normalize("NFD", "\u1f84")
    assert len(longest_decomposition) == 4
    assert "long" not in refused(longest_decomposition * MAXIMUM)
    assert refused(longest_decomposition * (MAXIMUM + 1)) == {"long"}


# The list of common passwords


@pytest.mark.parametrize("minimum", [8, 15])
def test_every_password_of_the_list_is_refused(minimum: int) -> None:
    long_enough = [password for password in listed() if len(password) >= minimum]
    assert len(long_enough) > 3_000
    sample = random.Random(6_2_4).sample(long_enough, 3_000)
    assert [password for password in sample if "common" not in refused(password, minimum=minimum)] == []


def test_the_list_is_sorted_and_folded() -> None:
    passwords = listed()
    assert passwords == sorted(set(passwords))
    assert all(password == normalize(password).casefold() for password in passwords)


@pytest.mark.parametrize(
    "password",
    ["PassWord12345678", "1234567890 PASSWORD", "password1234567890!!", "!!! letmein 2024 !!!",
     "--->iloveyou<---", "\uff50ass\uff57ord12345678", "pässwörd-12345678", "p4ssw0rd12345678", "P@$$w0rd 2024!!!",
     "@dministrator2024", "1l0v3y0u 1l0v3y0u", "dr4g0n000000000000", "p a s s w o r d 1 2", "pass-word-pass-word",
     "monkey1monkey2monkey3"],
)  # fmt: skip
def test_a_common_password_is_refused_also_with_digits_around_it_or_for_letters_and_repeated(password: str) -> None:
    assert "common" in refused(password)


# The person and the service


@pytest.mark.parametrize(
    "password",
    ["adalovelace1815", "Ada Lovelace 10.12.1815", "LOVELACE, ada!!", "ada.lovelace.ada.lovelace",
     "lovelaceadadragon", "ecalevol ada 1815", "4d4_l0v3l4c3_1815", "countess1815@engines.example",
     "countess@engines", "engines.example", "ada loves tiles", "tiles-tiles-tiles", "TilesPassword2024",
     "tilesqwertyuiop12"],
)  # fmt: skip
def test_a_password_built_from_the_person_or_the_service_is_refused(password: str) -> None:
    assert "personal" in refused(password)


@pytest.mark.parametrize(
    "password",
    ["my password is a walnut", "dragon umbrella quartz", "84f79cafe0af3e12", "qwerty velvet spinach",
     "quartz-umbrella quartz-umbrella", "first hijack a property", "velvet abc quartz 123",
     "bathroom tiles are slippery", "ada likes purple bicycles", "my armada of engines sank",
     "my cat ada eats tiles", "ada#9k$2!x7Q&p5z"],
)  # fmt: skip
def test_a_password_that_merely_contains_a_guessable_word_or_run_passes(password: str) -> None:
    assert refused(password) == set()


@pytest.mark.parametrize(
    ("name", "password"),
    [("Zoë Müller", "zoemuller12345678"), ("Zoe Muller", "zoë müller 1 2 3 4"),
     ("Zoe\u0308 MU\u0308LLER", "ZOË-MÜLLER-2024!"), ("Bjørn Łukasz", "bjorn lukasz 2024"),
     ("Jürgen Groß", "JÜRGEN GROSS 2024"), ("İbrahim Y\u0131ld\u0131z", "ibrahim.yildiz.34"),
     ("山田 太郎", "山田太郎123456789012"), ("李伟", "李伟!20240101!李伟!"), ("Li Wu", "li.wu.li.wu.1999")],
)  # fmt: skip
def test_a_name_is_recognized_in_any_spelling(name: str, password: str) -> None:
    assert "personal" in refused(password, name=name)


@pytest.mark.parametrize("name", ["A", "Li", "Jo B", "Ed Al", "", None, "- -", "🙂"])
def test_a_short_name_refuses_no_passphrase(name: str | None) -> None:
    assert refused("solid jolly edible alibi", name=name, email="b@c.example") == set()


def test_another_persons_name_is_no_reason() -> None:
    assert refused("gracehopper1906x", name=None, email="x@y.example") == set()
    assert refused("gracehopper1906x", name="Grace Hopper") == {"personal"}


# Repetitions


@pytest.mark.parametrize(
    "password",
    ["k" * 15, "kv" * 8, "kvzkvzkvzkvzkvzk", "Xk9#mQ2!Xk9#mQ2!", "xk9#MQ2! Xk9#mq2!", "kvzzkvkzvkzkvvzk",
     "山" * 20, "🙂🙃" * 9],
)  # fmt: skip
def test_a_repetition_is_refused(password: str) -> None:
    assert "repetition" in refused(password)


@pytest.mark.parametrize("space", [" ", "\t", "\u3000", "\u2003", " \n"])
def test_spaces_alone_are_refused(space: str) -> None:
    assert refused(space * 15) == {"repetition"}


def test_spaces_count_for_length_but_not_for_strength() -> None:
    assert refused("k v q z w m p t") == set()
    assert refused("kvqzw          ") == {"sequence"}


# Sequences


@pytest.mark.parametrize(
    "password",
    ["abcdefgh12345678", "zyxwvutsrqponmlk", "123456789qwerty", "qwertyuiopasdfgh", "poiuytrewqlkjhgf",
     "azertyuiopqsdfgh", "qwertzuiopyxcvbn", "йцукенгшщзфывапр", "1qaz2wsx3edc4rfv", "aabbccddeeffgghh",
     "a1b2c3d4e5f6g7h8", "1q2w3e4r5t6y7u8i!", "abcd-1234-efgh-5678", "αβγδεζηθικλμνξο",
     "あぃいぅうぇえぉおかがきぎくぐ", "x9abcdefghijklmn"],
)  # fmt: skip
def test_a_sequence_is_refused(password: str) -> None:
    assert "sequence" in refused(password)


# Everything else


@pytest.mark.parametrize(
    "password",
    ["correct horse battery staple", "correcthorsebatterystaple", "aprt!lmqzxkwvbn", "zażółć gęślą jaźń",
     "ein Dach über dem Kopf", "天地玄黄宇宙洪荒日月盈昃辰宿列", "ฉันชอบกินข้าวผัด", "나는 매일 아침 산책을 한다",
     "मेरी बिल्ली दूध पीती है", "قطتي تحب الحليب الدافئ", "🐙🍋🚲🎻🧊🌵🦊🪁🧵🥁🛶🍄🧲🪜🦔",
     "e\u0301t q\u0323\u0301 z\u0302w\u0307 k\u030cm\u0327n\u0329p r\u0325", "vixen\0plum\0quartz",
     "vixen\nplum\nquartz", "\u200bvixen plum quad"],
)  # fmt: skip
def test_any_unicode_passes(password: str) -> None:
    assert refused(password) == set()


@fewer
@given(st.lists(st.sampled_from(WORDS), min_size=3, max_size=6, unique=True), st.sampled_from(["", " ", "-", ".", "7"]))
def test_unrelated_words_pass(words: list[str], between: str) -> None:
    assert refused(between.join(words)) == set()


def test_random_strings_pass() -> None:
    draw = random.Random(63).randbytes
    strings = [base64.b64encode(draw(12))[:15].decode() for _ in range(1_000)] + [draw(16).hex() for _ in range(1_000)]
    assert [string for string in strings if refused(string)] == []


def test_every_reason_is_returned() -> None:
    assert refused("tilestiles") == {"short", "personal", "repetition"}
    assert refused("12345678") == {"short", "common", "sequence"}


@fewer
@given(ANY_TEXT | WEIRD_TEXT, ANY_TEXT | WEIRD_TEXT, ANY_TEXT)
def test_any_text_is_checked_without_an_error_and_never_quoted(password: str, name: str, email: str) -> None:
    examples = ("12345678", "tilestiles", "1" * 300)
    sentences = {reason for example in examples for reason in weaknesses(example, minimum=15, name=None, email="")}
    assert len(sentences) == len(KINDS)
    assert set(weaknesses(password, minimum=15, name=name, email=email)) <= sentences


@fewer
@given(ANY_TEXT | WEIRD_TEXT)
def test_normalizing_twice_changes_nothing(password: str) -> None:
    assert normalize(normalize(password)) == normalize(password)


@fewer
@given(WEIRD_TEXT | st.text(max_size=300), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_the_reasons_do_not_depend_on_how_the_text_was_composed(password: str, form: str) -> None:
    written = unicodedata.normalize(form, password)  # type: ignore[arg-type]
    assert refused(written) == refused(password)


def test_a_password_is_only_normalized_to_nfkc_before_hashing() -> None:
    assert normalize("  \uff36ixen  ①\u00a0e\u0301 ") == "  Vixen  1 \u00e9 "


def calls(password: str) -> int:
    """Return how many functions are called to check the password."""
    count = 0

    def one_more(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(one_more)
    try:
        refused(password)
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("unit", ["a", "ab", "1qaz", "tiles", "ada!", "p4", "\u1f84\u0323", "a1!", "aab", "山田"])
def test_twice_the_password_is_about_twice_the_work(unit: str) -> None:
    start = "q" + unit * MAXIMUM
    refused(start)
    assert calls(start[:MAXIMUM]) < 2.5 * calls(start[: MAXIMUM // 2])
