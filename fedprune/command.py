"""The `fedprune` command. Subcommands are loaded when they are called, so that an agent never imports TensorFlow."""

from __future__ import annotations

import importlib
from typing import Any, NoReturn

import click

from fedprune import __version__
from fedprune.errors import FedpruneError
from fedprune.system.output import install_streams
from fedprune.system.process import Terminated, interruptible, leave

_SUBCOMMANDS = {
    "demo": ("benchmarks.demo.command:demo", "Run a whole federation on this machine, on real data."),
    "init": ("export.scaffold.command:init", "Write a federation's files for your model and your data."),
    "simulate": (
        "benchmarks.simulate:simulate",
        "Run your federation on this machine, your data shared out.",
    ),
    "task": ("export.command:task", "Build, check or show a task bundle: what a federation learns."),
    "data": ("fedprune.data.command:data", "Share a data set out over agents."),
    "aggregator": ("aggregator.command:aggregator", "Run a federation's rounds on the gateway."),
    "sub-gateway": (
        "aggregator.sub_gateway.command:sub_gateway",
        "Run the rounds of a gateway above, with agents of one's own.",
    ),
    "gateway": (
        "aggregator.gateway.command:gateway",
        "The machine that a fleet belongs to: make it, prove it, run federation after federation.",
    ),
    "enroll": ("fedprune.identity.device_commands:enroll", "Invite a device to join a gateway, with a token."),
    "revoke": ("fedprune.identity.device_commands:revoke", "Shut a device out of a gateway."),
    "rollback": ("aggregator.rollback_command:rollback", "Take a run back to an earlier model."),
    "join": ("fedprune.identity.device_commands:join", "Join a gateway's federation, with a token from there."),
    "renew": (
        "fedprune.identity.device_commands:renew",
        "Renew this device's certificate, as agents do.",
    ),
    "agent": ("edge_agent.command:agent", "Train on this device's own data, for a federation."),
    "consent": (
        "edge_agent.consent_command:consent",
        "List the tasks that wait for a device's owner, and approve one.",
    ),
    "doctor": ("fedprune.doctor.command:doctor", "Examine this device or gateway, and say what mends it."),
    "export": ("export.export_command:export", "Convert a run's global model to verified .tflite files."),
    "matrix": ("benchmarks.matrix.command:matrix", "Export every way, measure each file, and recommend one."),
    "predict": ("fedprune.prediction.command:predict", "Answer raw data with an exported model, on any device."),
    "benchmark": ("benchmarks.latency.command:benchmark", "Measure the latency of .tflite models on this device."),
    "broker": ("fedprune.wire.embedded_broker:broker", "Run a small MQTT broker on loopback, for trials."),
}

_INTERRUPTED = 130
_OURS = ("fedprune", "edge_agent", "aggregator", "export")


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _SUBCOMMANDS:
            return None
        module, _, attribute = _SUBCOMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the summaries without importing what they summarise."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _SUBCOMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fedprune")
def cli() -> None:
    """Federated learning with pruning for fleets of Raspberry Pis and phone-class devices.

    \b
    A first look:            fedprune demo
    Your model, your data:   fedprune init mine --from model.py --data photos
                             fedprune simulate mine
    Your own federation:     fedprune task build task.toml --out my.fedtask
                             fedprune aggregator federation.toml
                             fedprune agent --name pi-1 --data pi-1.npz --broker mqtt://GATEWAY
    What came of it:         fedprune export RUN
                             fedprune benchmark RUN/export/*.tflite
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command; a `FedpruneError` is one line on stderr and its own exit code."""
    install_streams()
    leave(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    """The exit code."""
    try:
        with interruptible():
            result: Any = cli.main(arguments, prog_name="fedprune", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as early:
        return early.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FedpruneError as error:
        click.echo(f"fedprune: {' '.join(str(error).split())}", err=True)
        return error.exit_code
    except Terminated:
        return 0
    except (KeyboardInterrupt, click.Abort):
        click.echo("fedprune: interrupted", err=True)
        return _INTERRUPTED
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OURS:
            raise
        click.echo(f"fedprune: {error.name} is not installed; install the extra that has it (README)", err=True)
        return FedpruneError.exit_code


if __name__ == "__main__":
    main()
