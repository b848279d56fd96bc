"""``python -m bench.stack_speed``: how many times faster networks train together than one after the other.

Both with our optimizer, on the same batches, evaluations left out. They take turns, so that what slows the machine
slows both; each turn gives one ratio.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer

from bench import contenders, sweep
from bench.contenders import TRAITS, Takes
from bench.errors import BenchError, Exit, unknown
from bench.problems.networks import NETWORKS, Network
from bench.problems.stack import Stack, draw_picks, train
from bench.statistics import FEWEST_ROUNDS, Interval, ratio_interval

STEPS = 10  # of a turn


def main(
    network: Annotated[str, typer.Argument(help="A small network.")] = "digits",
    optimizer: Annotated[str, typer.Argument(help="One that takes a gradient a step.")] = "Adam",
    configurations: Annotated[int, typer.Option(help="Learning rates that are trained together.")] = 64,
    threads: Annotated[int, typer.Option(help="Of torch; the race uses one.")] = 1,
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 25,
) -> None:
    """Prints both times of a step of all configurations, and their ratio with its 95 % interval."""
    if network not in NETWORKS:
        raise unknown("network", network, NETWORKS)
    able = [name for name in TRAITS if TRAITS[name].takes is Takes.TENSORS]
    if optimizer not in able:
        raise unknown("optimizer that takes a gradient a step", optimizer, able)
    for name, value, least in (("configurations", configurations, 1), ("threads", threads, 1)):
        if value < least:
            raise BenchError(f"--{name} {value} measures nothing: give {least} or more.", Exit.USAGE)
    if rounds < FEWEST_ROUNDS:
        raise BenchError(f"--rounds {rounds} bounds nothing: give {FEWEST_ROUNDS} or more.", Exit.USAGE)
    torch.set_num_threads(threads)
    found, alone, together = compare(NETWORKS[network], optimizer, configurations, rounds)
    print(f"{configurations} × {network} with {optimizer}, {threads} thread(s), a step of all of them:")
    print(f"one after the other {alone * 1e6:,.0f} µs, together {together * 1e6:,.0f} µs")
    print(f"{found.value:.1f}× faster ({found.low:.1f} to {found.high:.1f})")


def compare(network: Network, optimizer: str, configurations: int, rounds: int) -> tuple[Interval, float, float]:
    """The ratio of the times, and the medians of both: seconds for one step of all configurations."""
    alone = one_after_the_other(network, optimizer, configurations)
    together = stacked(network, optimizer, configurations)
    times: list[tuple[float, float]] = []
    for turn in range(rounds + 1):  # the first one warms up
        pair = (alone(), together()) if turn % 2 else (together(), alone())[::-1]
        times += [pair] if turn else []
    ratio = ratio_interval([math.log(slow / fast) for slow, fast in times])
    middle = [sorted(column)[rounds // 2] / STEPS for column in zip(*times, strict=True)]
    return ratio, middle[0], middle[1]


def lrs(optimizer: str, configurations: int) -> list[float]:
    """Near the default, so that nothing diverges, and all of them different."""
    return [sweep.default_lr(optimizer) * (1 + place / configurations) for place in range(configurations)]


def one_after_the_other(network: Network, optimizer: str, configurations: int) -> Callable[[], float]:
    """A function that trains each configuration for `STEPS` steps, and says how many seconds that took."""
    data = network.data()
    models = [network.build(0) for _ in range(configurations)]
    optimizers = [
        contenders.build("ours", optimizer, model.parameters(), lr=lr)
        for model, lr in zip(models, lrs(optimizer, configurations), strict=True)
    ]
    batches = [(data.train_inputs[some], data.train_targets[some]) for some in picks_of(network)]

    def turn() -> float:
        begin = time.perf_counter()
        for model, stepper in zip(models, optimizers, strict=True):
            parameters = list(model.parameters())
            for inputs, targets in batches:
                network.loss(model, inputs, targets).backward()
                stepper.step()
                for parameter in parameters:
                    parameter.grad = None
        return time.perf_counter() - begin

    return turn


def stacked(network: Network, optimizer: str, configurations: int) -> Callable[[], float]:
    """The same of all of them together."""
    models = [network.build(0) for _ in range(configurations)]
    groups = [
        {"params": list(model.parameters()), "lr": lr}
        for model, lr in zip(models, lrs(optimizer, configurations), strict=True)
    ]
    stack, stepper = Stack(network, models), contenders.build("ours", optimizer, groups)
    data, picks = network.data(), picks_of(network)[:, None]

    def turn() -> float:
        *_, (_, seconds) = train(stack, stepper, data, picks, ())
        return seconds

    return turn


def picks_of(network: Network) -> torch.Tensor:
    return draw_picks(len(network.data().train_inputs), network.batch_size, STEPS, random.Random(0))


if __name__ == "__main__":
    try:
        typer.run(main)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
