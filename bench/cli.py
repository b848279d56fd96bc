"""The command line: ``python -m bench``."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from bench.budgets import BUDGETS
from bench.errors import BenchError, Exit

# The rooms behind the commands are imported inside them: they bring torch along, and --help should not wait for it.

app = typer.Typer(
    help="Verify, time and race optimizers, verify and time losses; results go to a folder under results/.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

BudgetOption = Annotated[str, typer.Option("--budget", help=f"How much to measure: {', '.join(BUDGETS)}.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, or all that is there.")]
OptimizerOption = Annotated[
    list[str] | None,
    typer.Option("--optimizer", help="Only this one, yours as lion.py:Lion, or all; may be repeated."),
]
ProblemOption = Annotated[list[str] | None, typer.Option("--problem", help="Only this one; may be repeated.")]
LossOption = Annotated[
    list[str] | None,
    typer.Option("--loss", help="Only this one, and in a race what the networks train on; may be repeated."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="What all random numbers are drawn from.")]
OutOption = Annotated[Path, typer.Option("--out", help="Where run folders go.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Begin a new run even if the last one is unfinished.")]


def _add_part(part: str, description: str) -> None:
    @app.command(part, help=description)
    def command(
        budget: BudgetOption = "default",
        device: DeviceOption = "all",
        optimizer: OptimizerOption = None,
        loss: LossOption = None,
        problem: ProblemOption = None,
        seed: SeedOption = 0,
        out: OutOption = Path("results"),
        fresh: FreshOption = False,
    ) -> None:
        from bench import plan, run

        made = plan.make(budget, device, optimizer or [], problem or [], seed, plan.PARTS[part], loss or [])
        raise typer.Exit(run.execute(made, out, fresh))


_add_part("run", "Verify, time and race, losses included; goes on where an interrupted run stopped.")
_add_part("verify", "Compare every optimizer with its reference.")
_add_part("time", "Time the steps of the optimizers (they are verified first by `run`, not by this).")
_add_part("losses", "Compare every loss and its gradient with torch in float64, and time it.")
_add_part("sweeps", "Time sweeps of many runs beside torch and optax, a part of `time` alone.")


@app.command()
def race(
    budget: BudgetOption = "default",
    device: DeviceOption = "all",
    optimizer: OptimizerOption = None,
    loss: LossOption = None,
    problem: ProblemOption = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Runs of each learning rate; else the budget's.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Gradients of each run; else the budget's.")] = None,
    lrs: Annotated[str | None, typer.Option("--lrs", help="Multiples of the defaults, as 0.1,1,10.")] = None,
    target: Annotated[
        float | None, typer.Option("--target", help="A loss of one --problem to come down to; else a fixed list.")
    ] = None,
    seed: SeedOption = 0,
    out: OutOption = Path("results"),
    fresh: FreshOption = False,
) -> None:
    """Let the optimizers minimise test functions and train small networks."""
    from bench import plan, run

    changes = {"seeds": seeds, "steps": steps, "lrs": lrs, "target": target}
    parts = plan.PARTS["race"]
    made = plan.make(budget, device, optimizer or [], problem or [], seed, parts, loss or [], changes)
    raise typer.Exit(run.execute(made, out, fresh))


RunArgument = Annotated[Path, typer.Argument(help="A run folder, such as results/latest.", show_default=False)]


@app.command()
def report(run: RunArgument) -> None:
    """Make the tables, charts and page of a run again, without measuring."""
    from bench import folder
    from bench import run as runner

    path = run_folder(run)
    try:
        with folder.lock(path):
            derived = runner.derive(path)
    except KeyboardInterrupt:
        message = "interrupted: the journal is whole; the same command makes the report again."
        raise BenchError(message, Exit.INTERRUPTED) from None
    if not derived:
        raise typer.Exit(Exit.WRONG)
    print(f"open {path / 'index.html'}")


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="The run before.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="The run after.", show_default=False)],
    threshold: Annotated[float, typer.Option(help="How much slower is a regression; 0.1 is 10 %.")] = 0.1,
) -> None:
    """Compare the step times of two runs; exit 3 if ours became slower against torch."""
    from bench import compare as comparison

    if not 0 < threshold < math.inf:
        raise BenchError(f"--threshold {threshold} makes no sense: give a number above 0, such as 0.1.", Exit.USAGE)
    compared = comparison.compare(run_folder(a), run_folder(b), threshold)
    print("\n".join(comparison.lines(compared)))
    regressions = int((compared["verdict"] == "regression").sum())
    print(f"{regressions} of {len(compared)} workloads became slower by more than {threshold:.0%}.")
    if regressions:
        raise typer.Exit(Exit.REGRESSION)


@app.command("map")
def hyper_map(
    optimizer: Annotated[str, typer.Argument(help="Such as Adam, or yours: lion.py:Lion.", show_default=False)],
    problem: Annotated[str, typer.Argument(help="Such as rosenbrock, or digits.", show_default=False)],
    x: Annotated[str, typer.Option("--x", help="The hyper-parameter across.")] = "lr",
    y: Annotated[str, typer.Option("--y", help="The one upwards.")] = "beta1",
    size: Annotated[int | None, typer.Option("--size", help="Runs along each side; else 256, networks 32.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Of each run; else 500, networks 200.")] = None,
    x_range: Annotated[str | None, typer.Option("--x-range", help="LOW:HIGH; else around the default.")] = None,
    y_range: Annotated[str | None, typer.Option("--y-range", help="The same upwards.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where the CSV file and the image go.")] = Path("results/maps"),
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
) -> None:
    """Draw where two hyper-parameters lead: one run for each pair, from a test function's start or a network's."""
    from bench import hyper_map as maps
    from bench import own
    from bench.progress import TimeLeft

    optimizer = own.named(optimizer)
    paths = maps.places(optimizer, problem, x, y, out)
    with TimeLeft() as progress:
        made = maps.make(optimizer, problem, x, y, size, steps, x_range, y_range, device, progress.report)
    print(maps.sentence(made))
    maps.write(made, paths)
    for path in paths:
        print(path)


@app.command("list")
def list_names() -> None:
    """Show the names that --optimizer, --loss, --problem and --budget take."""
    from bench import own, plan
    from bench.problems import functions

    for title, names in {
        "optimizers": plan.OPTIMIZERS,
        "parameter sets": plan.PARAMETER_SETS,
        "losses": plan.LOSSES,
        "sizes of losses": plan.SIZES,
        "functions": functions.NAMES,
        "functions that take a number of dimensions, as ackley-10d": functions.scalable(),
        "what may follow any function, with a seed or without": functions.VARIANTS,
        "networks": plan.NETWORKS,
        "functions of timed sweeps": plan.SUBJECTS,
        "budgets": BUDGETS,
    }.items():
        print(f"{title}\n  {' '.join(names)}")
    print(f"optimizers of your own, for --optimizer and map\n  {own.HOW}")


def run_folder(path: Path) -> Path:
    """The folder that a RUN argument means; ``latest`` also works where links fail."""
    from bench import folder, journal

    found = folder.latest(path.parent) if path.name == "latest" else path
    if found is None or not (found / journal.NAME).is_file():
        raise BenchError(f"{path} is not a run: it has no {journal.NAME}. Give a folder under results/.", Exit.USAGE)
    return found


def main() -> None:
    """Run the command line; what is in a run's way ends it with one sentence and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal that lacks a character shows ? and the run goes on
    try:
        app(prog_name="python -m bench")
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
