"""Personal data through the real program, on a server that it starts by itself: handled, shown to nobody, erased."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import forks
from tests.console.conftest import HEAD, Process

Start = Callable[..., Process]

PEOPLE = """
import logging
from sojourn import Agent, Context, agent, on

class CustomerRegistered(Event):
    '''A customer signed up.'''
    customer_id: Key
    email: Personal[str] | None = None
    age: Personal[int] | None = None
    plan: str = "free"

class WelcomeSent(Event, version=VERSION):
    '''A customer was welcomed.'''
    customer_id: Key
    MAIL: Personal[str] | None = None
    age: Personal[int] | None = None

@agent("welcomer")
class Welcomer(Agent):
    '''Welcomes.'''
    @on(CustomerRegistered)
    async def welcome(self, event: CustomerRegistered, ctx: Context) -> WelcomeSent:
        ctx.log.info("welcoming", to=event.email, deep={"age": [event.age]})
        logging.getLogger("library").warning("mail to %s", event.email)
        if event.plan == "bad":
            raise RuntimeError(f"no mail server wants {event.email}")
        return WelcomeSent(customer_id=event.customer_id, MAIL=event.email, age=event.age)
"""
UPCASTER = """
@upcast(WelcomeSent, from_version=1)
def renamed(data):
    return {**data, "address": data.pop("to")}
"""


def sojourn(folder: Path, *arguments: str, status: int = 0) -> str:
    done = forks.run(arguments, folder)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def actions(folder: Path, *more: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(sojourn(folder, "watch", "--no-follow", "-o", "json", *more))["actions"]
    return found


@pytest.fixture
def people(folder: Path) -> Path:
    first = PEOPLE.replace("VERSION", "1").replace("MAIL", "to")
    (folder / "people.py").write_text(HEAD + first)
    second = PEOPLE.replace("VERSION", "2").replace("MAIL", "address")
    (folder / "people2.py").write_text(HEAD + second + UPCASTER)
    return folder


def test_what_is_personal_is_shown_to_nobody_and_erased_for_good(start: Start, people: Path) -> None:
    worker = start("run", "people").until(lambda one: '"event": "running"' in one.err)
    for customer, plan in (("ann", "free"), ("bob", "bad")):
        data = {"customer_id": customer, "email": f"{customer}@secret.example", "age": 4711, "plan": plan}
        sojourn(people, "publish", "CustomerRegistered", json.dumps(data), "--module", "people")
    worker.until(lambda one: "dead letter" in one.err)
    assert worker.err.count('"welcoming"') == 2
    assert '"event": "mail to •••"' in worker.err
    (action,) = actions(people)
    assert action["data"] == {"customer_id": "ann", "to": "•••", "age": "•••"}
    (brought_up,) = actions(people, "--module", "people2")
    assert brought_up["data"] == {"customer_id": "ann", "address": "•••", "age": "•••"}
    assert (brought_up["schemaversion"], brought_up["storedversion"]) == (2, 1)
    line = sojourn(people, "watch", "--no-follow", "--module", "people2")
    assert "WelcomeSent address=••• age=•••" in line
    letters = json.loads(sojourn(people, "dead", "ls", "-o", "json"))["dead_letters"]
    (number,) = [letter["number"] for letter in letters]
    seen = [worker.err, line, json.dumps([action, brought_up]), sojourn(people, "dead", "show", number)]
    assert not any("secret.example" in text or "4711" in text for text in seen)
    assert "no mail server wants •••" in seen[-1]

    sojourn(people, "journeys", "erase", "bob", "--yes")
    sojourn(people, "journeys", "erase", "ann", "--yes")
    erased = sojourn(people, "dead", "show", number)
    assert "erased" in erased
    assert "no mail server wants" not in erased
    assert actions(people) == [action]  # sealed or erased is not to be told from outside
    assert actions(people, "--module", "people2") == [brought_up]
    worker.signal(signal.SIGTERM)
    assert worker.wait(15).status == 0
    status = json.loads(sojourn(people, "keys", "status", "-o", "json"))
    assert [one["wraps"] for one in status["master_keys"]] == [0]


def test_a_frozen_worker_starts_only_with_what_is_registered(start: Start, people: Path) -> None:
    refused = start("run", "people", SOJOURN_FROZEN="1").wait()
    assert refused.status == 1
    assert "run `sojourn schemas push people`" in refused.err
    assert "Traceback" not in refused.err
    sojourn(people, "schemas", "push", "people")
    worker = start("run", "people", "--frozen").until(lambda one: '"event": "running"' in one.err)
    worker.signal(signal.SIGTERM)
    assert worker.wait(15).status == 0


def test_a_pull_request_that_breaks_a_consumer_fails_without_a_server(people: Path) -> None:
    sojourn(people, "schemas", "push", "people")
    sojourn(people, "schemas", "pull")
    checkout = people / "checkout"
    checkout.mkdir()
    for name in ("people.py", "people2.py", "sojourn.schemas.json"):
        shutil.copy(people / name, checkout)
    assert "WelcomeSent 2         changed since version 1" in sojourn(checkout, "schemas", "check", "people2")
    broken = (people / "people2.py").read_text().replace(UPCASTER, "").replace("MAIL: Personal[str] | None = None", "")
    (checkout / "people3.py").write_text(
        broken.replace("    age: Personal[int] | None = None\n\n@", "    age: int\n\n@")
    )
    report = sojourn(checkout, "schemas", "check", "people3", status=1)
    assert "WelcomeSent 2         broken" in report
    assert "breaks BACKWARD" in report
    assert not (checkout / ".sojourn").exists()
