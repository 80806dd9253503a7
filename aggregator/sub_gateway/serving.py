"""A gateway that has joined another: it serves the federations of that one, for as long as it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable

from aggregator.book import RoundRecord
from aggregator.sub_gateway.process import keep_certificate_renewed, run_sub_gateway
from aggregator.sub_gateway.settings import FILE, SubGatewaySettings
from fedprune.config import load_toml
from fedprune.identity.gateway import Gateway

_log = logging.getLogger(__name__)


def serve_parent(gateway: Gateway, report: Callable[[RoundRecord], None]) -> None:
    """Serve until the process is told to end. `report` hears of each round.

    Raises what `run_sub_gateway` does: it goes on when it is started again.
    """
    settings = load_toml(gateway.path / FILE, SubGatewaySettings)
    keep_certificate_renewed(settings, gateway.path)
    while True:
        run_sub_gateway(settings, gateway.path, report)
        _log.info("the parent's federation is done; waiting for its next one")
