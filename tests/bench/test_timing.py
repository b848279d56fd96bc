"""The timing core against a clock of our own: nothing here depends on how fast this machine is."""

import gc
import math
import os

import numpy as np
import pytest
import torch

from bench.noise import NoiseMonitor, Reading, disturbed, stolen_ns
from bench.pinning import physical_cores, pinned, torch_workers
from bench.statistics import ratio_interval, verdict
from bench.timing import (
    FEWEST_ROUNDS,
    LEAD_IN_BELOW_NS,
    Arm,
    CpuStopwatch,
    CudaStopwatch,
    garbage_collection_off,
    measure,
)


class FakeClock:
    """Time passes only where a contender spends it."""

    def __init__(self, seed=0):
        self.ns = 0
        self.generator = np.random.default_rng(seed)
        self.speed = 1.0  # of the machine: 0.5 makes everything take twice as long

    def now(self):
        return self.ns

    def arm(self, name, ns, noise=0.0, log=None):
        def call():
            self.ns += max(1, int(ns * math.exp(noise * self.generator.normal()) / self.speed))
            if log is not None:
                log.append(name)

        return Arm(name, call)


def timed(clock, arms, seconds=10.0, **options):
    return measure(arms, CpuStopwatch(clock.now), seconds=seconds, **options)


@pytest.mark.parametrize("ratio", [1.0, 1.05, 4.0, 150.0])
def test_known_ratio_is_found(ratio):
    clock = FakeClock()
    arms = [clock.arm("ours", 20_000, noise=0.2), clock.arm("loop", 20_000 * ratio, noise=0.2)]
    timing = timed(clock, arms)
    interval = ratio_interval(timing.log_ratios("loop", "ours"))
    assert interval.low * 0.99 <= ratio <= interval.high * 1.01
    assert interval.value == pytest.approx(ratio, rel=0.03)
    assert timing.dropped == 0.0


def test_two_of_the_same_differ_by_nothing():
    clock = FakeClock(seed=5)
    timing = timed(clock, [clock.arm("a", 50_000, noise=0.3), clock.arm("b", 50_000, noise=0.3)])
    interval = ratio_interval(timing.log_ratios("b", "a"))
    assert verdict(interval.low, interval.high) == "no difference"


def test_a_machine_that_gets_slower_over_time_leaves_the_ratio_alone():
    clock = FakeClock()

    class Slowing(CpuStopwatch):
        def block(self, arm, calls):
            clock.speed = 1.0 / (1.0 + clock.ns / 3e8)
            return super().block(arm, calls)

    arms = [clock.arm("ours", 100_000, noise=0.05), clock.arm("loop", 200_000, noise=0.05)]
    timing = measure(arms, Slowing(clock.now), seconds=3.0)
    assert clock.speed < 0.9
    assert ratio_interval(timing.log_ratios("loop", "ours")).value == pytest.approx(2.0, rel=0.02)


def test_blocks_are_of_fixed_size_and_last_long_enough():
    clock = FakeClock()
    timing = timed(clock, [clock.arm("ours", 5_000), clock.arm("loop", 3_000_000)])
    assert timing.calls == {"ours": 400, "loop": 1}
    assert timing.of("ours") == pytest.approx(5_000)
    assert timing.of("loop") == pytest.approx(3_000_000)


def test_one_hiccup_in_the_warm_up_does_not_shrink_the_blocks():
    clock = FakeClock()
    arm = clock.arm("ours", 5_000)
    calls = []

    def call():
        calls.append(0)
        arm.call()
        if len(calls) == 3:  # the first that is timed
            clock.ns += 8_000_000

    assert timed(clock, [Arm("ours", call), clock.arm("loop", 5_000)]).calls["ours"] == 400


def rounds_of(log, names):
    """The order of the contenders in each round, from the log of their calls (with blocks of one call)."""
    size = len(names)
    return [tuple(log[start : start + size]) for start in range(0, len(log) - len(log) % size, size)]


def order_of_calls(seed):
    clock, log = FakeClock(), []
    names = ("a", "b", "c")
    arms = [clock.arm(name, 2 * LEAD_IN_BELOW_NS, noise=0.5, log=log) for name in names]
    timing = timed(clock, arms, seed=seed, seconds=3.0)
    return rounds_of(log[-3 * timing.rounds :], names)


def test_contenders_take_turns_in_an_order_shuffled_by_the_seed():
    orders = order_of_calls(seed=1)
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) >= 4
    assert orders == order_of_calls(seed=1)
    assert orders != order_of_calls(seed=2)


def test_a_block_of_short_calls_has_an_untimed_lead_in():
    clock = FakeClock()
    state = {"last": None}

    def arm(name):
        def call():
            clock.ns += 1_000_000 if state["last"] != name else 100_000  # cold caches after the other one
            state["last"] = name

        return Arm(name, call)

    timing = timed(clock, [arm("a"), arm("b")])
    assert timing.of("a") == pytest.approx(100_000)


def test_stops_as_soon_as_the_ratios_are_known_and_otherwise_when_time_is_up():
    clock = FakeClock()
    quiet = timed(clock, [clock.arm("a", 100_000), clock.arm("b", 200_000)], seconds=100.0)
    assert quiet.rounds < 20
    clock = FakeClock()
    noisy = timed(clock, [clock.arm("a", 2_000_000, noise=3.0), clock.arm("b", 2_000_000, noise=3.0)], seconds=2.0)
    assert noisy.rounds > quiet.rounds
    assert clock.ns < 10e9


def test_some_rounds_are_taken_even_if_there_is_no_time():
    clock = FakeClock()
    timing = timed(clock, [clock.arm("a", 900_000_000), clock.arm("b", 900_000_000)], seconds=0.1)
    assert timing.rounds == len(timing.times) == FEWEST_ROUNDS


def test_where_the_memory_lies_is_part_of_the_uncertainty():
    def timing(places):
        clock = FakeClock(seed=2)
        loop = clock.arm("loop", 100_000, noise=0.01)
        ours, *twins = (clock.arm("ours", 100_000 * place, noise=0.01).call for place in places)
        return timed(clock, [Arm("ours", ours, twins=tuple(twins)), loop], seconds=1.0)

    lucky, honest = (ratio_interval(timing(places).log_ratios("loop", "ours")) for places in ([0.9], [0.9, 1.1] * 2))
    assert verdict(lucky.low, lucky.high) == "faster"
    assert honest.low < 0.98 < 1.02 < honest.high


@pytest.mark.parametrize(
    ("is_slow", "rounds", "kept"),
    [
        (lambda reading: False, 6, 6),
        (lambda reading: reading in (2, 4), 9, 5),  # rounds 1 to 4 are lost, so it goes on past its time
        (lambda reading: reading % 3 == 2, 12, 4),  # two of three are lost; it gives up after twice its time
    ],
)
def test_a_disturbed_measurement_gets_more_time_but_not_without_end(is_slow, rounds, kept):
    clock = FakeClock()

    class Noise:
        count = -1

        def read(self):
            self.count += 1
            return Reading(clock.ns, 300_000 if is_slow(self.count) else 100_000, 0)

    arms = [clock.arm("a", 90_000_000), clock.arm("b", 90_000_000)]
    timing = timed(clock, arms, noise=Noise(), seconds=1.0)
    assert (timing.rounds, len(timing.times)) == (rounds, kept)


def test_untimed_work_before_a_call_is_not_counted():
    clock = FakeClock()
    step = clock.arm("a", 30_000)

    def before():
        clock.ns += 5_000_000

    timing = timed(clock, [Arm("a", step.call, before), clock.arm("b", 30_000)])
    assert timing.of("a") == pytest.approx(30_000)


def test_names_must_differ():
    clock = FakeClock()
    with pytest.raises(ValueError, match="distinct names"):
        timed(clock, [clock.arm("a", 1_000), clock.arm("a", 1_000)])
    with pytest.raises(ValueError, match="distinct names"):
        timed(clock, [])


class ScriptedNoise:
    """Disturbs every fourth round, as its canary shows."""

    def __init__(self, clock):
        self.clock, self.count = clock, 0

    def read(self):
        self.count += 1
        slow = self.count % 4 == 0  # the reading after rounds 3, 7, 11, ...: those and the ones after them are dropped
        self.clock.speed = 0.1 if self.count % 4 == 3 else 1.0
        return Reading(self.clock.ns, 300_000 if slow else 100_000, 0)


def test_disturbed_rounds_are_dropped_whole():
    clock = FakeClock()
    arms = [clock.arm("a", 100_000, noise=0.3), clock.arm("b", 200_000, noise=0.3)]
    timing = timed(clock, arms, noise=ScriptedNoise(clock), seconds=5.0)
    assert timing.dropped == pytest.approx(0.5, abs=0.1)
    assert timing.times.shape == (round(timing.rounds * (1 - timing.dropped)), 2, 1)
    assert timing.of("a").max() < 200_000  # the slow rounds took 1,000,000


def readings(canary, stolen=None, round_ns=10_000_000):
    stolen = np.zeros(len(canary)) if stolen is None else np.asarray(stolen)
    return [Reading(index * round_ns, *pair) for index, pair in enumerate(zip(canary, stolen, strict=True))]


def test_a_round_between_calm_canaries_is_kept():
    assert not disturbed(readings([100, 104, 97, 110])).any()


def test_a_canary_far_off_drops_the_rounds_on_both_its_sides():
    assert disturbed(readings([100, 100, 140, 100, 100])).tolist() == [False, True, True, False]
    assert disturbed(readings([100, 100, 60, 100, 100])).tolist() == [False, True, True, False]


def test_stolen_time_drops_the_round_it_was_stolen_in():
    stolen = np.cumsum([0, 0, 0, 5_000_000, 0, 100_000])
    assert disturbed(readings([100] * 6, stolen), cores=2).tolist() == [False, False, True, False, False]


def test_a_machine_that_is_always_robbed_keeps_its_rounds():
    stolen = np.cumsum([0] + [5_000_000] * 5)
    assert not disturbed(readings([100] * 6, stolen), cores=2).any()


def test_no_rounds_no_verdict():
    assert len(disturbed([])) == len(disturbed(readings([100]))) == 0


def test_noise_monitor_reads_this_machine():
    first, second = (NoiseMonitor().read() for _ in range(2))
    assert second.at_ns > first.at_ns
    assert 0 < first.canary_ns < 1e9
    assert second.stolen_ns >= first.stolen_ns >= 0
    assert stolen_ns() >= 0


def test_garbage_is_collected_once_where_timings_are_nested(monkeypatch):
    collected = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(1))
    with garbage_collection_off(), garbage_collection_off():
        assert collected == [1]
    assert gc.isenabled()


@pytest.mark.parametrize("was_on", [True, False])
def test_garbage_collection_is_off_and_then_as_it_was(was_on):
    (gc.enable if was_on else gc.disable)()
    try:
        with garbage_collection_off():
            assert not gc.isenabled()
        assert gc.isenabled() is was_on
    finally:
        gc.enable()


def test_pinning_gives_each_thread_a_core_and_is_undone():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinities on this system")
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("one core: nothing to tell apart")
    workers = torch_workers(2)
    with pinned(2) as count:
        assert count == 1 + len(workers) == 2
        assert len(os.sched_getaffinity(0)) == len(os.sched_getaffinity(workers[0])) == 1
        assert os.sched_getaffinity(0) != os.sched_getaffinity(workers[0])
    assert os.sched_getaffinity(0) == os.sched_getaffinity(workers[0]) == before


def test_physical_cores_lists_each_allowed_core_once():
    allowed = set(range(os.cpu_count()))
    assert sorted(physical_cores(allowed)) == sorted(allowed)


class FakeDevice:
    """A queue: the host needs `host_ns` to put a step in, the device `device_ns` to run it, after what is ahead."""

    def __init__(self, monkeypatch, host_ns, device_ns):
        self.ns = self.free_at = 0
        self.host_ns, self.device_ns = host_ns, device_ns
        device = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = max(device.ns, device.free_at)

            def elapsed_time(self, end):
                return (end.at - self.at) / 1e6  # milliseconds

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: self.queue(cycles / 2))

    def now(self):
        return self.ns

    def queue(self, ns):
        self.free_at = max(self.ns, self.free_at) + int(ns)

    def step(self):
        self.ns += self.host_ns
        self.queue(self.device_ns)

    def synchronize(self):
        self.ns = max(self.ns, self.free_at)


@pytest.mark.parametrize(("host_ns", "device_ns"), [(50_000, 10_000), (10_000, 50_000)])
def test_cuda_times_are_told_apart(monkeypatch, host_ns, device_ns):
    device = FakeDevice(monkeypatch, host_ns, device_ns)
    timing = measure([Arm("ours", device.step), Arm("loop", device.step)], CudaStopwatch(device.now), seconds=1.0)
    assert timing.calls["ours"] >= 100
    assert timing.of("ours", "host") == pytest.approx(host_ns)
    assert timing.of("ours", "device") == pytest.approx(device_ns)
    assert timing.of("ours") == pytest.approx(max(host_ns, device_ns), rel=0.01)


def test_cuda_step_inside_a_loop_is_timed_from_an_idle_device(monkeypatch):
    device = FakeDevice(monkeypatch, 10_000, 50_000)
    arms = [Arm(name, device.step, before=lambda: device.queue(1_000_000)) for name in ("ours", "loop")]
    timing = measure(arms, CudaStopwatch(device.now), seconds=1.0)
    assert timing.of("ours") == pytest.approx(60_000)
    assert timing.of("ours", "host") == pytest.approx(10_000)
    assert np.isnan(timing.of("ours", "device")).all()
