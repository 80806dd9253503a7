"""The epoch that a run is in, where devices have joined a gateway: in another one the run has another id.

A gateway that was restored from a backup goes back in its run. Devices have done some of its next rounds already, and
do none twice: so in the epoch that the root key opens for that they begin the run anew, as after a rollback.
"""

from __future__ import annotations

import logging
import secrets

from aggregator.book import RUN_ID_BYTES, Book
from fedprune.system.disk import Disk

_log = logging.getLogger(__name__)

_EPOCH = "epoch"


def enter_epoch(epoch: int, disk: Disk, book: Book) -> bool:
    """Have a run be in this epoch: its id changes, and the round that is open begins again, if it was in another one.

    Args:
        epoch: of the gateway.
        disk: the run's, where its epoch is written.
        book: the run's.

    Returns:
        Whether the open round begins again, and what had come of it is void.
    """
    wanted = b"%d" % epoch
    if disk.read(_EPOCH) == wanted:
        return False
    is_under_way = not book.is_new
    if is_under_way:
        book.roll_back(book.next_round(), secrets.token_urlsafe(RUN_ID_BYTES))
        _log.info("epoch %s has begun: agents begin round %s anew", epoch, book.next_round() + 1)
    disk.write(_EPOCH, wanted)
    return is_under_way
