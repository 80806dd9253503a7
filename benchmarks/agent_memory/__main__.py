"""The command `python -m benchmarks.agent_memory`."""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.agent_memory.agent import measure_agent, trains_in_small_cgroup
from benchmarks.agent_memory.cgroup import CgroupUnavailableError
from benchmarks.agent_memory.environments import Environment, build_wheel, make_environment
from benchmarks.agent_memory.figures import BATCH_SIZE, ROUNDS, STARTS, STEPS, Figures
from benchmarks.agent_memory.flower import measure_flower
from benchmarks.agent_memory.limits import claims
from benchmarks.agent_memory.site import Site, prepare_site
from benchmarks.children import Children
from benchmarks.claims import settle
from benchmarks.command_line import Script, json_option, write_json


@click.command(cls=Script)
@json_option("Write the figures there.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/agent-memory"),
    show_default=True,
    help="Where environments are kept, and logs go.",
)
def main(target: Path | None, out: Path) -> None:
    """Measure what the litert trainer takes on a device, against the keras trainer and a Flower client app.

    Each is installed into an environment of its own, as its requirements file pins it (5 GB of disk, some minutes the
    first time), and is then run as its users run it, on loopback. All train CNN-108k on the same 1,600 examples of
    Fashion-MNIST, 50 steps of 32 a round, on one thread:

    \b
      litert   `fedprune agent --trainer litert`
      keras    `fedprune agent --trainer keras`
      flower   SuperLink, SuperNode and `flwr run`

    Memory is the process's own high-water mark, VmHWM. The litert agent also does a round in a cgroup of 64 MB, where
    one can be made (as root). Exits with 1 if a limit that the project sets itself is missed.
    """
    figures = _measure(out.resolve())
    write_json(figures, target)
    Console().print(_table(figures))
    settle(claims(figures))


def _measure(out: Path) -> dict[str, Figures]:
    console = Console(stderr=True)
    work, environments = out / "work", out / "environments"
    shutil.rmtree(work, ignore_errors=True)
    wheel = build_wheel(out / "wheel")
    made = {}
    for name, requirements in (("litert", "agent.txt"), ("keras", "keras.txt"), ("flower", "flower.txt")):
        with console.status(f"Making the environment of {name}, unless it is there"):
            made[name] = make_environment(environments / name, requirements, None if name == "flower" else wheel)
    with Children(work) as children:
        with console.status("Preparing data and tasks"):
            site, source = prepare_site(work, children)
        console.print(source, style="dim")
        figures = {}
        for name, environment in made.items():
            with console.status(f"Measuring {name}"):
                flower = name == "flower"
                figures[name] = measure_flower(site, environment) if flower else measure_agent(site, environment, name)
        with console.status("Training with 64 MB"):
            trained = _trained_in_small_cgroup(site, made["litert"])
            figures["litert"] = msgspec.structs.replace(figures["litert"], trained_in_64_mb=trained)
    return figures


def _trained_in_small_cgroup(site: Site, environment: Environment) -> bool | str:
    """Or why that cannot be tried."""
    try:
        return trains_in_small_cgroup(site, environment, "litert")
    except CgroupUnavailableError as error:
        return str(error)


def _table(figures: dict[str, Figures]) -> Table:
    table = Table(
        title=f"CNN-108k, {STEPS} steps of {BATCH_SIZE} a round, one thread",
        title_justify="left",
        box=SIMPLE_HEAD,
        caption=f"First step: from the process's start, median of {STARTS}; for the agents an upper bound, with "
        f"connecting and the transfer of task and model. Samples/s: median of {ROUNDS} rounds, Flower's of {STARTS}, "
        "each in a process of its own.",
        caption_justify="left",
    )
    for heading in ("trainer", "peak MB", "idle MB", "installed MB", "first step s", "samples/s"):
        table.add_column(heading, justify="left" if heading == "trainer" else "right")
    for name, row in figures.items():
        table.add_row(
            name,
            f"{row.peak_rss_mb:.1f}",
            f"{row.idle_rss_mb:.1f}",
            f"{row.installed_mb:.1f}",
            f"{row.first_step_s:.2f}",
            f"{row.samples_per_s:,.0f}",
        )
    return table


if __name__ == "__main__":
    main()
