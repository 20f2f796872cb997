"""Names of events read as facts; names of writers and namespaces are plain tokens."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sojourn.bus.errors import ConfigurationError
from sojourn.bus.naming import check_token, is_fact, suggest_fact

FACTS = """
    OrderPlaced OrderSent OrderShipped OrderSplit OrderHeld OrderPaid OrderPlacedOnline OrderPlaced2 OrderLeftBehind
    CartAbandoned CartUpdated CartEmptied ItemSold ItemBoughtAgain ItemPutBack CheckedOut Returned Refunded PriceCut
    PriceDropped PriceSet StockOversold CouponRedeemed CouponWon DiscountOffered WishlistShared
    ReviewWritten BasketSeen GiftGiven ParcelLost ParcelHandedOver BuyBoxWon BuyNowClicked AddOnPurchased
    SignedUp SignedIn LoggedInAgain OptedOut TrialBegun TrialExpired PlanUpgraded SeatAdded InvoiceSent InvoiceOverpaid
    SubscriptionRenewedAutomatically SubscriptionCanceled SubscriptionCancelled PasswordReset EmailRead EmailBounced
    FeatureShown PayPalLinked SendGridConnected SSOEnabled KYCVerified APIKeyRevoked TwoFactorTurnedOn WebhookFired
    AccountOpened AccountFrozen AccountOverdrawn CardStolen CardBlocked TransferMade LoanRepaid DepositWithdrawn
    CreditWithheld DisputeUpheld PaymentFailedTwice PaymentFailedPermanently MandateForgotten BidderOutbid FundsSpent
    IoTDeviceConnected DeviceWokenUp SensorTriggered ThresholdExceeded DoorShut DoorLeftOpened ValveStuck LinkBroken
    UpdateInstalledOnDevice ReadingTaken BatteryRunDown SpeedLimitBroken MotorSpunUp TemperatureRisen InfraredTriggered
    ProcessStarted ProcessCrashed StoreClosedEarly OfferAccepted TicketDealtWith LapsePeriodEnded WaitEnded Died
""".split()

COMMANDS = """
    ProcessPayment SendOrder PlaceOrder PlaceBid CheckOut CutPrice SetPrice ResetPassword ReadEmail PutItem HitTarget
    CancelSubscription Subscribe SignUp LogIn Refund Return ShipOrder UpdateCart AddItem RemoveExpiredOffers
    SendAbandonedCartEmail NotifyBlockedUser ProcessFailedPayment ApplyPriceCut DeleteUnusedCoupons PayInvoice
    OpenAccount FreezeAccount TransferFunds StartTrial StopProcess Need Feed DataFeed NewsFeed TargetSpeed CustomerNeed
    Embed Exceed Proceed Succeed Payment Cart OrderShipment InfraredReading ShippedOrder Run Set Red X Ed
    SendUnpaidInvoice GenerateLostReport PrepareShippedParcel PublishSetup
""".split()


@pytest.mark.parametrize("name", FACTS)
def test_facts_pass(name: str) -> None:
    assert is_fact(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_and_things_do_not(name: str) -> None:
    assert not is_fact(name)


@pytest.mark.parametrize(
    ("command", "fact"),
    [
        ("ProcessPayment", "PaymentProcessed"),
        ("SendOrder", "OrderSent"),
        ("CutPrice", "PriceCut"),
        ("ShipOrder", "OrderShipped"),
        ("StopTrial", "TrialStopped"),
        ("PlanVisit", "VisitPlanned"),
        ("SubmitForm", "FormSubmitted"),
        ("OfferDiscount", "DiscountOffered"),
        ("OpenAccount", "AccountOpened"),
        ("ViewItem", "ItemViewed"),
        ("FixBug", "BugFixed"),
        ("ApplyCoupon", "CouponApplied"),
        ("PlayVideo", "VideoPlayed"),
        ("ShippedOrder", "OrderShipped"),
        ("Refund", "Refunded"),
    ],
)
def test_a_suggestion_is_a_fact(command: str, fact: str) -> None:
    assert suggest_fact(command) == fact
    assert is_fact(fact)


@given(st.text())
def test_any_text_is_judged_and_answered(name: str) -> None:
    is_fact(name)
    assert isinstance(suggest_fact(name), str)


@given(st.from_regex(r"([A-Z][a-z]{2,8}){1,4}", fullmatch=True))
def test_a_suggestion_for_a_class_name_is_a_class_name(name: str) -> None:
    assert suggest_fact(name).isidentifier()
    assert suggest_fact(name)[0].isupper()


@pytest.mark.parametrize("name", ["a", "win-back", "lapse2", "x--", "a" * 64])
def test_plain_tokens_pass(name: str) -> None:
    assert check_token("agent", name) == name


@pytest.mark.parametrize(
    "name",
    ["", "A", "2b", "-a", "a.b", "a b", "a_b", "a*", ">", "ä", "a\n", "a\r\nNats-Msg-Id: x", "a" * 65, "²", "a=2E"],
)
def test_others_are_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"agent .* is not a usable name: use a-z") as caught:
        check_token("agent", name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["act", "saga", "due", "redrive", "ingress"])
def test_reserved_names_are_refused_with_the_others(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is reserved") as caught:
        check_token("timer", name)
    assert "choose another" in str(caught.value)


@given(st.text(max_size=70))
def test_a_token_can_never_change_a_subject(name: str) -> None:
    try:
        check_token("agent", name)
    except ConfigurationError:
        return
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,63}", name)
