"""`fedprune broker`: amqtt as a small MQTT broker on loopback, for trials on a machine without Mosquitto."""

from __future__ import annotations

import asyncio
import logging
import signal

import click

from fedprune.errors import BrokerError
from fedprune.system.output import say


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=1883, show_default=True, help="The port to listen on.")
def broker(port: int) -> None:
    """Run a small MQTT broker on 127.0.0.1, without passwords, for trials on one machine.

    A fleet needs a real one, such as Mosquitto: this one forgets retained messages when it stops and knows no access
    control.

    \b
      fedprune broker --port 1883
    """
    for library in ("amqtt", "transitions"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # amqtt logs a traceback for what it raises as well
    asyncio.run(_serve(port))


async def _serve(port: int) -> None:
    from amqtt.broker import Broker
    from amqtt.contexts import BrokerConfig, ListenerConfig
    from amqtt.errors import BrokerError as AmqttError

    config = BrokerConfig(
        listeners={"default": ListenerConfig(bind=f"127.0.0.1:{port}")},
        plugins={"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    )
    server = Broker(config)
    try:
        await server.start()
    except (AmqttError, OSError) as error:
        raise BrokerError(f"port {port} on 127.0.0.1 cannot be used ({error}); choose another --port") from error
    say(f"broker: listening on mqtt://127.0.0.1:{port}; Ctrl-C ends it")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await server.shutdown()
