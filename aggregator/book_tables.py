"""The tables of the aggregator's book."""

FORMAT = 8
"""Of the tables below; a book of another format is refused."""

SCHEMA = """
CREATE TABLE federation (
    only INTEGER PRIMARY KEY CHECK (only = 0), run TEXT NOT NULL, task BLOB NOT NULL, settings TEXT NOT NULL,
    starts INTEGER NOT NULL, ticket_key BLOB NOT NULL, began INTEGER NOT NULL
) STRICT;
CREATE TABLE former_runs (run TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE rounds (round INTEGER PRIMARY KEY, cap INTEGER NOT NULL, record TEXT) STRICT;
CREATE TABLE cohort (
    round INTEGER NOT NULL, agent TEXT NOT NULL, examples INTEGER NOT NULL, PRIMARY KEY (round, agent)
) STRICT, WITHOUT ROWID;
CREATE TABLE refused (agent TEXT PRIMARY KEY, digest BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE updates (
    round INTEGER NOT NULL, agent TEXT NOT NULL, digest BLOB NOT NULL, size INTEGER NOT NULL, weight INTEGER NOT NULL,
    loss REAL NOT NULL, train_seconds REAL NOT NULL, idle_memory_mb REAL NOT NULL, peak_memory_mb REAL NOT NULL,
    x_mean REAL NOT NULL, x_largest REAL NOT NULL, delta_norm REAL NOT NULL, statistics_norm REAL NOT NULL,
    local_steps INTEGER NOT NULL, counted_steps INTEGER NOT NULL,
    evaluated_examples INTEGER NOT NULL, evaluated_loss REAL, tallies BLOB NOT NULL, file TEXT NOT NULL,
    place INTEGER NOT NULL, left_out TEXT, apart TEXT, PRIMARY KEY (round, agent)
) STRICT;
CREATE INDEX updates_of_agent ON updates (agent, round);
CREATE TABLE remembered (
    agent TEXT NOT NULL, round INTEGER NOT NULL, signs BLOB NOT NULL, PRIMARY KEY (agent, round)
) STRICT, WITHOUT ROWID;
"""
