"""The privacy policy: published in versions, effective from a day, and shown the same everywhere."""

import hashlib
from datetime import date, timedelta

import pytest
from journeys import MoveClock
from support import Person, Service, any_database, assert_problem

from backend import clock
from backend.errors import Impossible
from backend.privacy import policy

TEXT = "We store a name & an email address.\n\nNothing else.\n"


def publish(service: Service, version: str, effective_on: date, text: str = TEXT) -> policy.Version:
    return service.run(policy.publish, version=version, effective_on=effective_on, text=text)


def test_a_version_is_in_force_from_its_day_and_can_be_read_before(
    service: Service, ada: Person, move_clock: MoveClock
) -> None:
    assert_problem(service.http.get("/v1/policy"), 404, "not-found")
    assert "policy in force" not in service.http.get("/privacy").text
    today = clock.now().date()
    publish(service, "old", today)
    publish(service, "new", today + timedelta(days=1), "We store even less.")
    sha256 = hashlib.sha256(TEXT.encode()).hexdigest()
    assert service.http.get("/v1/policy").json == {
        "version": "old",
        "effective_on": str(today),
        "sha256": sha256,
        "url": "https://accounts.tiles.test/privacy",
    }
    page = service.http.get("/privacy").text
    parts = ("Version old, in force", "<p>We store a name &amp; an email address.</p>", "<p>Nothing else.</p>", sha256,
             "Version new takes the place", "<p>We store even less.</p>")  # fmt: skip
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    move_clock(timedelta(days=1))
    assert service.http.get("/v1/policy").json["version"] == "new"
    assert service.account(ada.headers).json["policy"]["current"] == "new"


def test_publishing_the_same_again_changes_nothing_even_after_its_day(service: Service, move_clock: MoveClock) -> None:
    day = clock.now().date()
    first = publish(service, "2026-01", day)
    before = service.rows("policies")
    move_clock(timedelta(days=400))
    assert publish(service, "2026-01", day) == first
    assert service.rows("policies") == before


INVALID = {
    "another text": ("2026-01", 0, "Another text.", "choose a new name"),
    "another day": ("2026-01", 1, TEXT, "choose a new name"),
    "no name": ("", 0, "New.", "name the version"),
    "a space": ("a version", 0, "New.", "name the version"),
    "too long": ("v" * 41, 0, "New.", "name the version"),
    "no text": ("2026-02", 0, " \n", "the text is empty"),
    "yesterday": ("2026-02", -1, "New.", "is over"),
    "same text": ("2026-02", 0, TEXT, "version 2026-01 has this text already"),
    "same text spaced": ("2026-02", 9, TEXT.replace("\n\n", "\n \n\n"), "version 2026-01 has this text already"),
}


@any_database
@pytest.mark.parametrize(("version", "days", "text", "reason"), INVALID.values(), ids=INVALID.keys())
def test_a_published_version_cannot_be_changed_and_an_invalid_one_not_published(
    service: Service, version: str, days: int, text: str, reason: str
) -> None:
    today = clock.now().date()
    publish(service, "2026-01", today)
    before = service.rows("policies")
    with pytest.raises(Impossible, match=reason):
        publish(service, version, today + timedelta(days=days), text)
    assert service.rows("policies") == before
