"""The AsyncAPI document: valid by the specification's own schema, complete, and true of what is on the wire."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator
from pydantic import Field
from referencing import Registry as References
from referencing.exceptions import Unresolvable

from examples import foreign, retail
from examples.retail import CartAbandoned, CartRecovery, DiscountOffered, LapseWatch, Loyalty, OrderPlaced
from sojourn.agents.agent import Agent
from sojourn.agents.processor import AgentProcessor
from sojourn.bus.catalog import Catalog
from sojourn.bus.envelope import Cause, encode
from sojourn.bus.event import Event, Key, spec_of
from sojourn.bus.intake import file_document
from sojourn.bus.memory import MemoryTransport
from sojourn.bus.personal.field import Personal
from sojourn.bus.personal.key import CustomerKey
from sojourn.bus.ports import Stored
from sojourn.bus.registry import Registration, Registry
from sojourn.bus.schemas.export.asyncapi import asyncapi
from sojourn.bus.schemas.records import SchemaRecord
from sojourn.bus.schemas.schema import schema_of
from sojourn.bus.schemas.validation import Contracts
from sojourn.bus.subjects import Namespace
from sojourn.bus.timers import VirtualTimers
from tests.bus.schemas.export.making import NOW, at, record_of, records_of

Document = dict[str, Any]

NAMESPACE = Namespace("shop", partitions=8, shards=2)
AGENTS: tuple[type[Agent[Any]], ...] = (CartRecovery, LapseWatch, Loyalty)
SPECIFICATION = json.loads((Path(__file__).parent / "asyncapi-3.0.0.json").read_text())
# A registry of its own, which knows nothing and fetches nothing: the specification's schema is all in one file.
VALIDATOR = Draft7Validator(SPECIFICATION, registry=References())


async def registered(*agents: type[Agent[Any]]) -> list[Registration]:
    registry = Registry(await MemoryTransport(VirtualTimers()).bucket("SHOP_registry"))
    for cls in agents:
        await registry.register(AgentProcessor(cls))
    return await registry.agents()


@pytest.fixture
async def document() -> Document:
    """The document of the retail example."""
    records = records_of(Catalog.of_module(retail))
    return asyncapi(NAMESPACE, await registered(*AGENTS), records, title="Shop", version="1")


def writer(name: str = "win-back", **facts: Any) -> Registration:
    given: dict[str, Any] = {"handles": [], "folds": [], "publishes": []} | facts
    return Registration(kind="agent", name=name, version=1, group=name, reference="shop:It", registered=NOW, **given)


def describe(*registrations: Registration, records: list[SchemaRecord] | None = None) -> Document:
    made = asyncapi(NAMESPACE, registrations, records or [], title="Shop", version="1")
    VALIDATOR.validate(made)
    return made


def payload(document: Document, message: str) -> Draft202012Validator:
    """The validator of a message's documents."""
    return at(document, f"#/components/messages/{message}/payload/schema")


def written(event: Event, **facts: Any) -> Document:
    """The document that Sojourn stores for an event."""
    settings: dict[str, Any] = {"id": "1", "source": "/test", "key": "c1", "time": datetime.now(UTC)} | facts
    stored: Document = json.loads(encode(event, **settings))
    return stored


def operations(document: Document, agent: str, action: str) -> set[str]:
    """The channels on which an agent sends or receives."""
    return {
        operation["channel"]["$ref"].removeprefix("#/channels/")
        for operation in document["operations"].values()
        if operation["action"] == action and operation.get("x-sojourn-agent") == agent
    }


def references(part: object) -> Iterator[str]:
    """Every reference in a document."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


# The whole


def test_the_retail_example_is_valid_by_the_specifications_own_schema(document: Document) -> None:
    VALIDATOR.validate(document)
    assert json.loads(json.dumps(document)) == document


def test_the_specifications_schema_is_whole_and_one_that_is_not_would_be_told() -> None:
    Draft7Validator.check_schema(SPECIFICATION)
    part = {"$ref": SPECIFICATION["$id"] + "/elsewhere"}
    with pytest.raises(Unresolvable):
        Draft7Validator(part, registry=References()).is_valid({})


def unlink(document: Document) -> None:
    del document["operations"]["loyalty.send.action.loyalty.LoyaltyTierReached"]["channel"]


def misdirect(document: Document) -> None:
    document["operations"]["loyalty.send.action.loyalty.LoyaltyTierReached"]["action"] = "publish"


def misplace(document: Document) -> None:
    document["components"]["correlationIds"]["journey"]["location"] = "correlationid"


def misname(document: Document) -> None:
    document["components"]["messages"]["OrderPlaced.v3"]["deprecatd"] = True


def misaddress(document: Document) -> None:
    document["channels"]["event.OrderPlaced"]["address"] = 1


def misdate(document: Document) -> None:
    document["asyncapi"] = "2.6.0"


def untitle(document: Document) -> None:
    del document["info"]["title"]


@pytest.mark.parametrize("breaking", [unlink, misdirect, misplace, misname, misaddress, misdate, untitle])
def test_a_broken_document_is_refused(document: Document, breaking: Callable[[Document], None]) -> None:
    broken = deepcopy(document)
    breaking(broken)
    assert VALIDATOR.is_valid(document) and not VALIDATOR.is_valid(broken)


def test_every_reference_leads_somewhere_within_the_document(document: Document) -> None:
    found = set(references(document))
    assert len(found) > 50
    for reference in found:
        part: Any = document
        assert reference.startswith("#/")
        for token in reference[2:].split("/"):
            part = part[token]
        assert isinstance(part, dict)


def test_every_operation_takes_messages_of_its_own_channel(document: Document) -> None:
    for operation in document["operations"].values():
        channel = operation["channel"]["$ref"]
        assert operation["messages"]
        assert all(message["$ref"].startswith(f"{channel}/messages/") for message in operation["messages"])


def test_every_schema_in_it_is_one(document: Document) -> None:
    formats = set()
    parts = [*document["components"]["schemas"].values()]
    parts += [message["payload"] for message in document["components"]["messages"].values()]
    for part in parts:
        formats.add(part["schemaFormat"])
        Draft202012Validator.check_schema(part["schema"])
    assert formats == {"application/schema+json;version=draft-2020-12"}


def test_components_have_names_that_any_tool_takes(document: Document) -> None:
    names = [name for kind in document["components"].values() for name in kind]
    names += [*document["channels"], *document["operations"]]
    plain = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_")
    assert all(name and set(name) <= plain for name in names)


async def test_the_order_of_what_is_registered_does_not_matter(document: Document) -> None:
    records = records_of(Catalog.of_module(retail))
    agents = await registered(*AGENTS)
    again = asyncapi(NAMESPACE, agents[::-1], records[::-1], title="Shop", version="1")
    assert json.dumps(again) == json.dumps(document)


# What it names


async def test_every_event_that_agents_handle_fold_and_publish_is_named(document: Document) -> None:
    for agent in await registered(*AGENTS):
        received, sent = operations(document, agent.name, "receive"), operations(document, agent.name, "send")
        assert {f"event.{type}" for type in agent.reads} <= received
        assert {f"action.{agent.name}.{type}" for type in agent.publishes} == sent
        for type in (*agent.reads, *agent.publishes):
            version = spec_of(getattr(retail, type)).version
            assert document["components"]["messages"][f"{type}.v{version}"]["name"] == type


def test_what_each_agent_of_the_retail_example_receives_and_sends(document: Document) -> None:
    assert operations(document, "cart-recovery", "receive") == {
        "event.CartAbandoned",
        "event.CartForgotten",
        "event.CartUpdated",
        "event.DiscountOffered",
        "event.OrderPlaced",
        # Its own offers are part of its journey.
        "action.cart-recovery.DiscountOffered",
        "due.cart-recovery",
    }
    assert operations(document, "cart-recovery", "send") == {"action.cart-recovery.DiscountOffered"}
    assert operations(document, "loyalty", "send") == {"action.loyalty.LoyaltyTierReached"}
    bought = document["operations"]["cart-recovery.receive.event.OrderPlaced"]
    assert (bought["action"], bought["x-sojourn-uses"]) == ("receive", ["handles", "folds"])
    assert bought["summary"] == "cart-recovery handles and folds OrderPlaced."
    own = document["operations"]["cart-recovery.receive.action.cart-recovery.DiscountOffered"]
    assert own["x-sojourn-uses"] == ["folds"]


def test_a_registered_type_is_named_even_where_no_agent_wants_it(document: Document) -> None:
    assert {"event.ProductViewed", "ingress.ProductViewed"} <= set(document["channels"])


def test_an_action_reaches_the_other_agents_that_read_it() -> None:
    made = describe(
        writer("greeter", publishes=["CustomerGreeted"]),
        writer("caller", publishes=["CustomerGreeted"], handles=["CustomerGreeted"]),
        writer("counter", folds=["CustomerGreeted"]),
    )
    assert operations(made, "caller", "receive") == {
        "event.CustomerGreeted",
        "action.greeter.CustomerGreeted",
        "due.caller",
    }
    assert operations(made, "counter", "receive") == {
        "event.CustomerGreeted",
        "action.greeter.CustomerGreeted",
        "action.caller.CustomerGreeted",
    }


def test_an_event_without_a_registered_schema_is_named_and_says_so() -> None:
    bare = SchemaRecord(type="CartLost", key_field="customer_id")
    made = describe(writer(handles=["CartAbandoned"], publishes=["CartLost"]), records=[bare])
    for type in ("CartAbandoned", "CartLost"):
        message = made["components"]["messages"][f"{type}.any"]
        assert message["x-sojourn-unregistered"] is True and "No schema" in message["description"]
    assert payload(made, "CartAbandoned.any").is_valid(written(CartAbandoned(customer_id="c1", cart_value=Decimal(1))))
    assert not payload(made, "CartLost.any").is_valid(written(CartAbandoned(customer_id="c1", cart_value=Decimal(1))))


def test_only_an_agent_whose_handlers_may_set_timers_has_a_channel_for_them() -> None:
    taking = {"handlers": [{"event": "OrderPlaced", "context": False}, {"event": "CartLost", "context": True}]}
    without = {"handlers": [{"event": "OrderPlaced", "context": False}]}
    made = describe(
        writer("timed", handles=["OrderPlaced"], description=taking),
        writer("plain", handles=["OrderPlaced"], description=without),
        writer("folding", folds=["OrderPlaced"]),
        writer("table", handles=["OrderPlaced"]).model_copy(update={"kind": "projection"}),
    )
    assert [channel for channel in made["channels"] if channel.startswith("due.")] == ["due.timed"]
    assert "timed.receive.due.timed" in made["operations"] and "plain.receive.due.plain" not in made["operations"]


def test_agents_and_owners_are_described(document: Document) -> None:
    trait = document["components"]["operationTraits"]["loyalty"]
    assert trait["description"] == "Thanks customers when their orders reach a tier."
    assert (trait["x-sojourn-mode"], trait["x-sojourn-version"], trait["x-sojourn-group"]) == ("live", 1, "loyalty")
    assert document["info"]["tags"] == [{"name": "shop", "description": "Events that shop owns."}]
    message = document["components"]["messages"]["OrderPlaced.v3"]
    assert message["tags"] == [{"name": "shop"}] and message["description"] == OrderPlaced.__doc__
    assert message["x-sojourn-key"] == "customer_id"


# Subjects


def test_addresses_are_the_subjects_of_the_bus(document: Document) -> None:
    home = NAMESPACE.locate("ann@example")

    def filled(channel: str) -> str:
        facts = document["channels"][channel]
        values = {"partition": str(home.partition), "key": home.token, "timer": "cart"}
        assert set(facts.get("parameters", {})) == {name for name in values if f"{{{name}}}" in facts["address"]}
        return str(facts["address"].format(**values))

    assert filled("event.OrderPlaced") == NAMESPACE.event(home, "OrderPlaced")
    assert filled("due.cart-recovery") == NAMESPACE.due(home, "cart-recovery", "cart")
    offered = NAMESPACE.action(home, "cart-recovery", "DiscountOffered")
    assert filled("action.cart-recovery.DiscountOffered") == offered
    assert filled("ingress.OrderPlaced") == NAMESPACE.ingress_filter.replace(">", "OrderPlaced")
    partitions = document["components"]["parameters"]["partition"]["enum"]
    assert partitions == ["0", "1", "2", "3", "4", "5", "6", "7"]


# Documents


def test_what_is_published_is_as_it_says(document: Document) -> None:
    event = OrderPlaced(customer_id="c1", order_id="o1", total=Decimal("9.99"), currency="EUR", items=1)
    validator = payload(document, "OrderPlaced.v3")
    stored = written(event)
    assert validator.is_valid(stored)
    assert not validator.is_valid(written(CartAbandoned(customer_id="c1", cart_value=Decimal(1))))
    assert not validator.is_valid(stored | {"data": {"customer_id": "c1"}})
    assert not validator.is_valid(stored | {"schemaversion": 2})
    assert not validator.is_valid({name: stored[name] for name in stored if name != "correlationid"})
    assert not validator.is_valid(stored | {"Not-Allowed": 1})


def test_actions_and_timers_are_as_it_says(document: Document) -> None:
    cause = Cause("7", "CartAbandoned", "1", 12, 0, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    offer = written(DiscountOffered(customer_id="c1", percent=10, reason="new"), kind="out", cause=cause)
    assert payload(document, "DiscountOffered.v3").is_valid(offer)
    forgotten = retail.CartForgotten(customer_id="c1", cart_value=Decimal(1))
    due = written(forgotten, kind="due", cause=cause, timer_generation=3)
    assert payload(document, "CartForgotten.v1").is_valid(due)
    assert not payload(document, "CartForgotten.v1").is_valid(due | {"kind": "fired"})


KNOWN = {record.type: record for record in records_of(Catalog.of_module(retail))}


def sent(**facts: Any) -> Document:
    """What a foreign producer sends."""
    data = {"customer_id": foreign.CARTS[0][0], "cart_value": foreign.CARTS[0][1]}
    return {"specversion": "1.0", "id": "1", "source": "/checkout", "type": "CartAbandoned", "data": data} | facts


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"time": "2026-01-01T10:00:00Z", "subject": "c-17", "schemaversion": 1, "loyaltycard": "gold"},
        {"time": None, "correlationid": None, "datacontenttype": "application/json", "dataschema": "https://x.example"},
    ],
)
def test_what_foreign_producers_may_send_is_filed_as_it_says(document: Document, facts: Document) -> None:
    assert payload(document, "CartAbandoned.v1.foreign").is_valid(sent(**facts))
    message = Stored("shop.in.CartAbandoned", 1, json.dumps(sent(**facts)).encode(), 1_767_225_600_000_000_000)
    filing = file_document(message, NAMESPACE, Catalog.of_module(retail), KNOWN, 1_000_000, Contracts())
    assert filing.error is None
    assert payload(document, "CartAbandoned.v1").is_valid(json.loads(filing.appends[0].payload))


@pytest.mark.parametrize(
    "facts",
    [
        {"specversion": "0.3"},
        {"id": ""},
        {"source": 1},
        {"type": "OrderPlaced"},
        {"time": 12},
        {"data": {"customer_id": "c-17"}},
        {"data": "text"},
        {"subject": 7},
        {"Time": "now"},
    ],
)
def test_what_foreign_producers_must_not_send_is_refused_by_both(document: Document, facts: Document) -> None:
    assert not payload(document, "CartAbandoned.v1.foreign").is_valid(sent(**facts))
    message = Stored("shop.in.CartAbandoned", 1, json.dumps(sent(**facts)).encode(), 1_767_225_600_000_000_000)
    assert file_document(message, NAMESPACE, Catalog.of_module(retail), KNOWN, 1_000_000, Contracts()).error is not None


# Versions and personal data


class First:
    class CustomerSubscribed(Event):
        """A customer wants letters."""

        customer_id: Key


class Second:
    class CustomerSubscribed(Event, version=2):
        """A customer wants letters."""

        customer_id: Key
        email: Personal[Annotated[str, Field(min_length=3)]] | None = None


@pytest.fixture
def versions() -> Document:
    record = record_of(First.CustomerSubscribed, Second.CustomerSubscribed, owner="post")
    reader = writer(handles=["CustomerSubscribed"])
    return describe(reader, writer("poster", publishes=["CustomerSubscribed"]), records=[record])


def test_every_version_is_a_message_and_older_ones_are_deprecated(versions: Document) -> None:
    messages = versions["components"]["messages"]
    assert {name: message.get("deprecated") for name, message in messages.items()} == {
        "CustomerSubscribed.v1": True,
        "CustomerSubscribed.v1.foreign": True,
        "CustomerSubscribed.v2": None,
        "CustomerSubscribed.v2.foreign": None,
    }
    read = versions["operations"]["win-back.receive.event.CustomerSubscribed"]["messages"]
    assert [message["$ref"].rpartition("/")[2] for message in read] == [
        "CustomerSubscribed.v1",
        "CustomerSubscribed.v2",
    ]
    said = versions["operations"]["poster.send.action.poster.CustomerSubscribed"]["messages"]
    assert [message["$ref"].rpartition("/")[2] for message in said] == ["CustomerSubscribed.v2"]


def test_a_document_is_of_exactly_one_version(versions: Document) -> None:
    for cls in (First.CustomerSubscribed, Second.CustomerSubscribed):
        stored = written(cls(customer_id="c1"))
        fits = [number for number in (1, 2) if payload(versions, f"CustomerSubscribed.v{number}").is_valid(stored)]
        assert fits == [spec_of(cls).version]
        # A document that does not say is of version 1.
        del stored["schemaversion"]
        assert payload(versions, "CustomerSubscribed.v1").is_valid(stored)
        assert not payload(versions, "CustomerSubscribed.v2").is_valid(stored)


def test_personal_values_are_sealed_in_the_log_and_plain_at_ingress(versions: Document) -> None:
    event = Second.CustomerSubscribed(customer_id="c1", email="ann@shop.example")
    sealed = written(event, sealer=CustomerKey.new()[0])
    stored = sealed | {"data": json.loads(event.model_dump_json())}
    log, ingress = payload(versions, "CustomerSubscribed.v2"), payload(versions, "CustomerSubscribed.v2.foreign")
    assert ingress.is_valid(stored) and not log.is_valid(stored)
    assert log.is_valid(sealed)
    assert not log.is_valid(stored | {"data": {"customer_id": "c1", "email": "sealed:1:"}})
    assert log.is_valid(stored | {"data": {"customer_id": "c1", "email": None}})
    assert not ingress.is_valid(stored | {"data": {"customer_id": "c1", "email": "a"}})
    messages, schemas = versions["components"]["messages"], versions["components"]["schemas"]
    assert messages["CustomerSubscribed.v2"]["x-sojourn-personal"] is True
    assert "x-sojourn-personal" not in messages["CustomerSubscribed.v1"]
    there = schemas["CustomerSubscribed.v2.sealed"]["schema"]["properties"]["email"]["anyOf"][0]
    here = schemas["CustomerSubscribed.v2"]["schema"]["properties"]["email"]["anyOf"][0]
    assert there["x-sojourn-personal"] is here["x-sojourn-personal"] is True
    assert "encrypted here" in there["description"] and "plain here" in here["description"]
    assert "CustomerSubscribed.v1.sealed" not in schemas


def test_exporting_leaves_the_schemas_alone() -> None:
    before = deepcopy(schema_of(Second.CustomerSubscribed))
    describe(records=[record_of(Second.CustomerSubscribed)])
    assert schema_of(Second.CustomerSubscribed) == before
