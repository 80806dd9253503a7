"""The error tree. Foreign errors are mapped into it where they enter; the command prints one line and exits.

::

    FedpruneError             1
    ├── ConfigurationError    3  a setting that a person wrote: option, .toml file, broker address
    ├── DataError             4  examples that cannot be used: a bad .npz, labels out of range, NaN
    │   └── Unusable             (data.skipped) a row or a file, where the others may be good
    ├── TaskError             5  a task bundle or model that cannot be used, or does not fit the data
    │   ├── NoTrainingGraph      (export) a model that only the keras trainer trains
    │   └── RuntimeUnfit         (runtime.self_check) a device's runtime that cannot run its training graph, or errs
    ├── BrokerError           6  the broker refuses us or our password, or lacks what we need
    │   ├── BrokerUnreachable    (wire.refusals) no connection can be opened, for a reason that may pass by itself
    │   ├── LoginRefused         (wire.trial) a broker that can be reached does not let a trial's client in
    │   └── GatewayUnproven      (identity.joining) who answers is not the gateway that made the join token
    ├── StorageError          7  the disk is full, or a checkpoint, book or memory is unreadable
    │   └── OutputLost           (system.output) standard output is closed or full, or its reader has gone
    ├── ProtocolError         8  a foreign message or update that is malformed; it never stops a round
    ├── TrainingError         9  a trainer that could not train
    │   ├── TrainingStopped      (edge_agent.trainers) a training that nobody wants any more
    │   └── TrainingDiverged     (edge_agent.trainers.divergence) numbers that are not finite, or too large
    ├── OtherVersion          1  what another version of fedprune wrote, and can use: nobody is to give it up
    │   ├── StorageOfOtherVersion 7  a StorageError too: a book, an agent's memory, a queue's entry
    │   └── TaskOfOtherVersion    5  a TaskError too: a task bundle
    ├── ConsentMissing        1  (edge_agent.consent) a task that a device's owner does not, or not yet, consent to
    ├── Unwell                1  (doctor.command) some check of the doctor failed
    ├── TokenRefused          1  (identity.devices) a join token that lets nobody in: unknown, late or used
    └── ExportError          10  a model that could not be exported or benchmarked
        └── FormatsFailed     1  (export.export_command) some formats could not be made, the others were

The number is the exit code. 2 is click's for a wrong command line, 130 means Ctrl-C. Anything outside the tree
is our own bug and keeps its traceback.
"""

from __future__ import annotations


class FedpruneError(Exception):
    """Base of everything a user can cause and mend. The message says what is wrong, where, and how to mend it."""

    exit_code: int = 1


class ConfigurationError(FedpruneError):
    exit_code = 3


class DataError(FedpruneError):
    exit_code = 4


class TaskError(FedpruneError):
    exit_code = 5


class BrokerError(FedpruneError):
    exit_code = 6


class StorageError(FedpruneError):
    exit_code = 7


class ProtocolError(FedpruneError):
    exit_code = 8


class TrainingError(FedpruneError):
    exit_code = 9


class ExportError(FedpruneError):
    exit_code = 10


class OtherVersion(FedpruneError):
    """The message says of which format it is, and which is read here."""


class StorageOfOtherVersion(OtherVersion, StorageError):
    pass


class TaskOfOtherVersion(OtherVersion, TaskError):
    pass
