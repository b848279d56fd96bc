"""The workloads of `bench.step_time` for pytest-benchmark, for whoever wants its options:

    pytest bench/ --benchmark-only -k "adam and mlp"
    pytest bench/ --benchmark-only --benchmark-autosave;  pytest bench/ --benchmark-only --benchmark-compare

Contenders run one after the other here, so read differences below some 10 % with care; claims come from
``python -m bench time``, which interleaves them.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch.utils.benchmark.utils.timer import timer as synchronizing_timer

from bench import subjects
from bench.contenders import OPTIMIZERS, TORCH_MODES, TRAITS, build, fallback, unavailable
from bench.pinning import pinned
from bench.step_time import WARM_UP_CALLS
from bench.stream import bytes_per_step

PARAMETER_SETS = (
    *("mlp", "many-small", "many-medium", "resnet18", "one-big", "many-groups"),
    *("matrices-200x64", "embedding", "vector-100k"),
)


def _devices() -> tuple[str, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a driver that is too old, say: then there is no CUDA device
        return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


@pytest.fixture(scope="module", autouse=True)
def threads_stay_on_their_cores() -> Iterator[None]:
    """As in `bench.step_time`: else the modes that use torch's pool may stall, and ours would look too good."""
    with pinned(torch.get_num_threads()):
        yield


@pytest.fixture(autouse=True)
def memory_of_the_last_one_is_free() -> Iterator[None]:
    """A set of 33 M elements with its state is half a gigabyte: it must not wait for the garbage collector."""
    yield
    gc.collect()


@pytest.mark.parametrize("contender", ("ours", *TORCH_MODES))
@pytest.mark.parametrize("parameter_set", PARAMETER_SETS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("device", _devices())
# Short steps are bundled into rounds of at least 1 ms, so that the timer's synchronisation does not count.
@pytest.mark.benchmark(timer=synchronizing_timer, min_time=0.001, max_time=0.2, min_rounds=5, disable_gc=True)
def test_step(benchmark, device: str, optimizer: str, parameter_set: str, contender: str) -> None:
    """One `step()`."""
    reason = unavailable(contender, optimizer, device) or subjects.unsuitable(optimizer, parameter_set)
    if reason:
        pytest.skip(reason)
    subject = subjects.maker(optimizer, parameter_set, device, torch.float32, 0)()
    params, over = subject.params, subjects.groups(parameter_set, subject.params)
    built = build(contender, optimizer, over, **TRAITS[optimizer].timed_with)
    step = partial(built.step, subject.closure) if subject.closure else built.step
    # The plugin takes the first call it sees for typical: state must be there and kernels compiled before.
    for _ in range(1 + WARM_UP_CALLS.get(optimizer, 1)):
        step()
    if contender == "ours" and device in TRAITS[optimizer].kernels and (reason := fallback(built)):
        pytest.skip(reason)
    benchmark.group = f"{optimizer} {parameter_set} {device}"
    benchmark.extra_info.update(
        device=device,
        dtype=str(params[0].dtype).removeprefix("torch."),
        n_params=sum(map(torch.numel, params)),
        n_tensors=len(params),
        bytes=bytes_per_step(optimizer, params),
        threads=torch.get_num_threads(),
        contender=contender,
    )
    benchmark(step)
