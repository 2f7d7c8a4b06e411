"""The privacy policy: published in versions, effective from a day, and shown the same everywhere."""

import hashlib
from datetime import date, timedelta

from journeys import MoveClock
from support import Person, Service, assert_problem

from backend import clock
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
