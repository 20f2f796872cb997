"""A producer and reader that knows nothing of Sojourn: nats-py and JSON, as any language would do it.

With `sojourn run examples.quickstart --server nats://127.0.0.1:4222` in another terminal:

    python examples/foreign.py nats://127.0.0.1:4222
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid

import nats

CARTS = [("c-17", "80.00"), ("c-18", "12.50"), ("c-17", "95.00")]


async def main(url: str) -> None:
    """Publishes three abandoned carts and prints what the agent does about them."""
    client = await nats.connect(url)
    jetstream = client.jetstream()
    actions = await client.subscribe("sojourn.log.*.*.act.>")
    for customer, value in CARTS:
        document = {
            "specversion": "1.0",
            "id": str(uuid.uuid4()),
            "source": "/shop/checkout",
            "type": "CartAbandoned",
            "data": {"customer_id": customer, "cart_value": value},
        }
        await jetstream.publish("sojourn.in.CartAbandoned", json.dumps(document).encode())
    for _ in range(2):
        message = await actions.next_msg(timeout=30)
        action = json.loads(message.data)
        print(action["subject"], action["type"], action["data"], "because of", action["causationid"])
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
