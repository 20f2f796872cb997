"""What an agent class may look like, and what is said of one that cannot work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pytest

from sojourn import Agent, Context, Event, Journey, Key, Retry, agent, evolve, on
from sojourn.agents.agent import spec_of_agent
from sojourn.agents.spec import AgentSpec, Style
from sojourn.bus.errors import DefinitionError
from tests.ids import told

if TYPE_CHECKING:
    from decimal import Decimal as Unseen


class ShopEvent(Event, abstract=True):
    customer_id: Key


class CartUpdated(ShopEvent):
    pass


class CartAbandoned(ShopEvent):
    pass


class DiscountOffered(ShopEvent):
    pass


class CouponSent(ShopEvent):
    pass


class Cart(Journey):
    offers: int = 0

    @evolve(DiscountOffered)
    def offered(self, event: DiscountOffered) -> None:
        self.offers += 1


class Visit(Journey):
    pages: int = 0

    @evolve(CartUpdated)
    def seen(self, event: CartUpdated) -> None:
        self.pages += 1


class Bare(Journey):
    pass


def make(
    *methods: Any, base: Any = Agent[Cart], name: Any = "win-back", where: Any = None, **options: Any
) -> AgentSpec:
    """An agent class whose methods handle CartAbandoned, CartUpdated …"""
    events = (CartAbandoned, CartUpdated, DiscountOffered)
    body = {
        method.__name__: on(event, where=where)(_fresh(method)) for method, event in zip(methods, events, strict=False)
    }

    class Made(base):  # type: ignore[misc]  # the base is the case
        """Does what the case says.

        At length.
        """

    for attribute, value in body.items():
        setattr(Made, attribute, value)
    return spec_of_agent(agent(name, **options)(Made))


def _fresh(method: Any) -> Any:
    method.__dict__.pop("__handles__", None)
    return method


def plain(self: Any, event: CartAbandoned, cart: Cart, ctx: Context) -> DiscountOffered | None: ...
def short(self: Any, event: CartAbandoned) -> None: ...
def middle(self: Any, event: CartAbandoned, cart: Cart) -> None: ...
def untyped(self: Any, event, cart, ctx) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
def wide(self: Any, event: ShopEvent, cart: Journey | None, ctx: Context) -> None: ...
async def coroutine(self: Any, event: CartAbandoned) -> list[DiscountOffered]:
    return []


def generator(self: Any, event: CartAbandoned) -> Iterator[DiscountOffered | CouponSent]:
    yield from ()


def full_generator(self: Any, event: CartAbandoned) -> Generator[DiscountOffered, None, CouponSent | None]:
    yield DiscountOffered(customer_id="c1")
    return None


async def async_generator(self: Any, event: CartAbandoned) -> AsyncIterator[tuple[DiscountOffered, ...]]:
    yield ()


def no_journey(self: Any, event: CartAbandoned, ctx: Context) -> Iterable[CouponSent]:
    return []


@pytest.mark.parametrize(
    "method, base, style, arguments, journey, context, publishes",
    [
        (plain, Agent[Cart], Style.FUNCTION, 3, True, True, ["DiscountOffered"]),
        (short, Agent[Cart], Style.FUNCTION, 1, False, False, []),
        (middle, Agent[Cart], Style.FUNCTION, 2, True, False, []),
        (untyped, Agent[Cart], Style.FUNCTION, 3, True, True, []),
        (wide, Agent[Cart], Style.FUNCTION, 3, True, True, []),
        (coroutine, Agent, Style.COROUTINE, 1, False, False, ["DiscountOffered"]),
        (generator, Agent, Style.GENERATOR, 1, False, False, ["CouponSent", "DiscountOffered"]),
        (full_generator, Agent, Style.GENERATOR, 1, False, False, ["DiscountOffered"]),
        (async_generator, Agent[None], Style.ASYNC_GENERATOR, 1, False, False, ["DiscountOffered"]),
        (no_journey, Agent, Style.FUNCTION, 2, False, True, ["CouponSent"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_handlers_of_every_shape(
    method: Any, base: Any, style: Style, arguments: int, journey: bool, context: bool, publishes: list[str]
) -> None:
    spec = make(method, base=base)
    handler = spec.handlers["CartAbandoned"]
    assert handler.style is style
    assert handler.arguments == arguments
    assert (handler.needs_journey, handler.needs_context) == (journey, context)
    assert sorted(handler.publishes) == publishes
    assert spec.journey is (Cart if base is Agent[Cart] else None)


def test_what_an_agent_is_called_and_how_it_runs() -> None:
    spec = make(plain, version=3, group="offers", start="beginning", retry=Retry(2), timeout=timedelta(seconds=3))
    assert (spec.name, spec.version, spec.group, spec.start) == ("win-back", 3, "offers", "beginning")
    assert (spec.retry.attempts, spec.timeout) == (2, timedelta(seconds=3))
    assert spec.doc == "Does what the case says."
    assert spec.reference == f"{__name__}:make.<locals>.Made"
    assert make(plain).group == "win-back"


def test_a_generic_base_may_stand_in_between() -> None:
    kind = TypeVar("kind", bound=Journey)

    class Polite(Agent[kind], Generic[kind]):
        @on(CartAbandoned)
        def offer(self, event: CartAbandoned) -> DiscountOffered | None:
            return None

    @agent("polite")
    class PoliteWinBack(Polite[Cart]):
        @on(CartUpdated)
        def update(self, event: CartUpdated, cart: Cart) -> None: ...

    spec = spec_of_agent(PoliteWinBack)
    assert spec.journey is Cart
    assert set(spec.handlers) == {"CartAbandoned", "CartUpdated"}


def test_a_subclass_needs_a_name_of_its_own() -> None:
    @agent("first")
    class First(Agent):
        @on(CartAbandoned)
        def offer(self, event: CartAbandoned) -> None: ...

    class Second(First): ...

    with pytest.raises(
        DefinitionError, match=r'test_agent.py:\d+: class Second has no name yet: put @agent\("a-name"\)'
    ):
        spec_of_agent(Second)
    with pytest.raises(DefinitionError, match="is no agent class: derive from Agent"):
        spec_of_agent(Cart)  # type: ignore[arg-type]  # the point


def nothing_announced(self: Any, event: CartAbandoned):  # type: ignore[no-untyped-def]  # noqa: ANN201
    ...
def announces_anything(self: Any, event: CartAbandoned) -> Any: ...
def announces_text(self: Any, event: CartAbandoned) -> str:
    return ""


def announces_list(self: Any, event: CartAbandoned) -> list: ...  # type: ignore[type-arg, empty-body]
def announces_base(self: Any, event: CartAbandoned) -> ShopEvent | None: ...
def announces_unseen(self: Any, event: CartAbandoned) -> Unseen | None: ...
def no_event(self: Any) -> None: ...
def too_many(self: Any, event: CartAbandoned, cart: Cart, ctx: Context, more: int) -> None: ...
def keyword(self: Any, event: CartAbandoned, *, ctx: Context) -> None: ...
def wrong_event(self: Any, event: CartUpdated) -> None: ...
def wrong_journey(self: Any, event: CartAbandoned, cart: Visit) -> None: ...
def context_first(self: Any, event: CartAbandoned, ctx: Context) -> None: ...
def context_bare(self: Any, event, ctx) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
def context_wrong(self: Any, event: CartAbandoned, cart: Cart, ctx: int) -> None: ...
def journey_and_context(self: Any, event: CartAbandoned, cart: Cart, ctx: Context) -> None: ...
def journey_only(self: Any, event: CartAbandoned, cart: Cart) -> None: ...


@pytest.mark.parametrize(
    "method, base, message",
    [
        (nothing_announced, Agent, r"its return annotation is missing, which says what the agent publishes: -> Disc"),
        (
            announces_anything,
            Agent,
            r"its return annotation says (typing\.)?Any, where it should say what the agent publ",
        ),
        (announces_text, Agent, r"its return annotation says str, where"),
        (announces_list, Agent, r"its return annotation says list, where"),
        (announces_base, Agent, r"ShopEvent in its return annotation is an abstract base: name the events"),
        (
            announces_unseen,
            Agent,
            r"'Unseen \| None' in its return annotation is not known at run time: import it plainly",
        ),
        (no_event, Agent, r"a handler takes \(self, event, ctx\), of which the last may be left out"),
        (too_many, Agent[Cart], r"a handler takes \(self, event, journey, ctx\), of which the last may be left out"),
        (keyword, Agent, r"a handler takes \(self, event, ctx\)"),
        (wrong_event, Agent, r"@on\(CartAbandoned\) hands it a CartAbandoned, but event is CartUpdated"),
        (
            wrong_journey,
            Agent[Cart],
            r"second parameter is the journey, a Cart, but cart is Visit: annotate it as Cart, or d",
        ),
        (
            context_first,
            Agent[Cart],
            r"second parameter is the journey, a Cart, but ctx is Context: write \(self, event, jo",
        ),
        (
            context_bare,
            Agent[Cart],
            r"second parameter is the journey, whatever its name: write \(self, event, journey, ctx\)",
        ),
        (context_wrong, Agent[Cart], r"last parameter is the Context, but ctx is int"),
        (
            journey_and_context,
            Agent,
            r"a handler takes \(self, event, ctx\).*; with a journey, derive Made from Agent\[Cart\]",
        ),
        (
            journey_only,
            Agent,
            r"last parameter is the Context, but cart is Cart; for a journey, derive Made from Agent\[Cart",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None) if callable(value) and not isinstance(value, type) else None,
)
def test_handlers_that_cannot_work(method: Any, base: Any, message: str) -> None:
    line = method.__code__.co_firstlineno
    with pytest.raises(DefinitionError, match=rf"test_agent.py:{line}: Made.{method.__name__}: .*{message}"):
        make(method, base=base)


class NeedsArguments(Agent):
    def __init__(self, model: str) -> None: ...


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "Win Back"}, "agent 'Win Back' is not a usable name: use a-z, 0-9 and '-'"),
        ({"name": "saga"}, "agent 'saga' is reserved"),
        ({"group": "due"}, "group 'due' is reserved"),
        ({"version": 0}, "version=0 is not a whole number from 1"),
        ({"version": True}, "version=True is not a whole number from 1"),
        ({"start": "yesterday"}, 'start=\'yesterday\' is neither "now" nor "beginning"'),
        ({"retry": Retry(0)}, "is no Retry with at least one attempt"),
        ({"timeout": timedelta(0)}, "is no time span above zero"),
        ({"base": NeedsArguments}, "a worker makes its agents itself, without arguments, and Made wants model"),
        ({"base": Agent[Bare]}, "Bare never changes: give it @evolve methods, or write a bare Agent"),
        ({"base": Agent[int]}, r"Agent\[...\] takes a Journey class, not <class 'int'>"),  # type: ignore[type-var]
    ],
    ids=told,
)
def test_agents_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=rf"test_agent.py:\d+: class Made: .*{message}"):
        make(short, **options)


def test_an_agent_handles_something() -> None:
    with pytest.raises(
        DefinitionError, match=r"test_agent.py:\d+: class Made: handles nothing: put @on\(SomeEvent\) above a m"
    ):
        make()


def test_one_handler_per_event() -> None:
    with pytest.raises(
        DefinitionError,
        match=r"test_agent.py:\d+: class Two: one and other both handle CartAbandoned: keep one handler",
    ):

        @agent("two")
        class Two(Agent):
            @on(CartAbandoned)
            def one(self, event: CartAbandoned) -> None: ...
            @on(CartAbandoned)
            def other(self, event: CartAbandoned) -> None: ...


def test_one_event_per_handler() -> None:
    with pytest.raises(
        DefinitionError, match=r"test_agent.py:\d+: .*both has two @on: write a handler for each event type"
    ):

        class Two(Agent):
            @on(CartAbandoned)  # type: ignore[arg-type]  # the point
            @on(CartUpdated)
            def both(self, event: Any) -> None: ...


def test_an_override_is_decorated_too() -> None:
    class Base(Agent):
        @on(CartAbandoned)
        def offer(self, event: CartAbandoned) -> None: ...

    with pytest.raises(DefinitionError, match=r"class Quiet: offer overrides a handler: put @on\(...\) above it too"):

        @agent("quiet")
        class Quiet(Base):
            def offer(self, event: CartAbandoned) -> None: ...


def test_on_takes_events_and_belongs_on_methods() -> None:
    with pytest.raises(DefinitionError, match=r"test_agent.py:\d+: @on takes an event class, not 'CartAbandoned'"):
        on("CartAbandoned")  # type: ignore[arg-type]  # the point
    with pytest.raises(
        DefinitionError, match=r"@on\(ShopEvent\): ShopEvent is an abstract base and no event: handle its sub"
    ):
        on(ShopEvent)
    with pytest.raises(DefinitionError, match=r"@on\(CartAbandoned\) belongs on a method, not on 3"):
        on(CartAbandoned)(3)  # type: ignore[call-overload]


def test_agent_needs_a_name_and_a_class_of_agents() -> None:
    with pytest.raises(DefinitionError, match=r'@agent needs a name: @agent\("win-back"\)'):

        @agent  # type: ignore[arg-type]  # the point
        class Nameless(Agent): ...

    with pytest.raises(
        DefinitionError, match=r"@agent\('cart'\) belongs on a class that derives from Agent, not on .*Cart"
    ):
        agent("cart")(Cart)  # type: ignore[type-var]


async def asks_later(event: CartAbandoned) -> bool:
    return True


def takes_three(event: CartAbandoned, cart: Cart, more: int) -> bool:
    return True


def takes_other(event: CartUpdated) -> bool:
    return True


def takes_other_journey(event: CartAbandoned, visit: Visit) -> bool:
    return True


@pytest.mark.parametrize(
    "where, message",
    [
        (3, "where=3 cannot be called"),
        (asks_later, "where=asks_later is asynchronous; it must be a plain function"),
        (takes_three, r"where=takes_three must take \(event, journey\) or \(event\)"),
        (takes_other, "where=takes_other is given a CartAbandoned, but its event is CartUpdated"),
        (takes_other_journey, "where=takes_other_journey is given a Cart, but its visit is Visit"),
        (lambda: True, r"where=<lambda> must take \(event, journey\) or \(event\)"),
    ],
    ids=told,
)
def test_predicates_that_cannot_work(where: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=rf"test_agent.py:\d+: Made.short: {message}"):
        make(short, where=where)


@pytest.mark.parametrize(
    "where", [lambda event: True, lambda event, cart: True, lambda event, limit=50: True], ids=["1", "2", "3"]
)
def test_predicates_of_every_shape(where: Callable[..., bool]) -> None:
    handler = make(short, where=where).handlers["CartAbandoned"]
    assert handler.where_needs_journey is (where.__code__.co_argcount == 2 and not where.__defaults__)


def test_a_predicate_of_the_journey_needs_one() -> None:
    with pytest.raises(DefinitionError, match=r"must take \(event\): the agent has no journey"):
        make(short, base=Agent, where=lambda event, cart: True)


def test_two_classes_of_one_name_cannot_be_announced() -> None:
    def other() -> type[Event]:
        class DiscountOffered(ShopEvent): ...

        return DiscountOffered

    twin = other()

    def both(self: Any, event: CartAbandoned) -> DiscountOffered | twin: ...  # type: ignore[valid-type]

    with pytest.raises(DefinitionError, match="names two different classes DiscountOffered"):

        @agent("both")
        class Both(Agent):
            offer = on(CartAbandoned)(both)
