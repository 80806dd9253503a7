"""The bytes on the sockets of Flower's SuperNodes in federated averaging of CNN-108k: `flower-app/`, on loopback.

A SuperLink and SuperNodes are deployed as their users do, each SuperNode behind a relay that counts what passes. The
app trains nothing, for bytes do not depend on what is learned.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from benchmarks.agent_memory.environments import Environment
from benchmarks.agent_memory.flower import CONNECTED, await_line, connection, superlink, supernode, variables
from benchmarks.bytes_to_accuracy.records import Flower
from benchmarks.children import Children, free_port
from benchmarks.relay import relayed
from fedprune.errors import TrainingError

_APP = Path(__file__).parent / "flower-app"
_NODES, _ROUNDS = 2, 5


def measure_sockets(environment: Environment, out: Path) -> Flower:
    """Run `_ROUNDS` rounds with `_NODES` SuperNodes in the directory `out`; the mean over both. Raises
    `FedpruneError`s."""
    home = out / "flower"
    with Children(home) as children, ExitStack() as relays:
        link, env = free_port(), variables(home, environment)
        (home / "config.toml").write_text(connection(link))
        children.start_command("superlink", superlink(environment, link), env)
        children.await_port("superlink", link)
        counts = []
        for number in range(_NODES):
            counted = relays.enter_context(relayed(link))
            counts.append(counted)
            name = f"supernode-{number}"
            children.start_command(name, supernode(environment, counted.port, free_port(), {"name": name}), env)
            await_line(children, name, CONNECTED)
        command: list[str | Path] = [environment.script("flwr"), "run", _APP, "local", "--stream"]
        children.run_command("run", [*command, "--run-config", f"rounds={_ROUNDS} nodes={_NODES}"], env)
        said = children.log("run").read_text()
    if min(min(counted.up, counted.down) for counted in counts) < 4 * 108_618 * _ROUNDS:
        raise TrainingError(f"Flower's nodes did not send and receive {_ROUNDS} models; see {home}: {said[-200:]}")
    return Flower(
        version=version_of(environment),
        bytes_up=sum(counted.up for counted in counts) // (_NODES * _ROUNDS),
        bytes_down=sum(counted.down for counted in counts) // (_NODES * _ROUNDS),
    )


def version_of(environment: Environment) -> str:
    """Flower's in an environment."""
    (found,) = environment.path.glob("lib/python*/site-packages/flwr-*.dist-info")
    return found.name.removeprefix("flwr-").removesuffix(".dist-info")
