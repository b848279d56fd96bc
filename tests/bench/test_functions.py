"""What is said of each test function is true: minima, minimisers, starts, basins, gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from bench.errors import BenchError, Exit
from bench.problems.function import Function, qr_rotation, rotated, shifted
from bench.problems.functions import ENTRIES, FUNCTIONS, VARIANTS, known, named, scalable
from bench.problems.functions.scalable import Scalable
from bench.starts import starts

ALL = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
SMOOTH = [function for function in FUNCTIONS.values() if function.smooth]
#: those of the table in the other number of dimensions for which it says what is known
WIDE = [
    *(f"{name}-10d" for name, entry in ENTRIES.items() if isinstance(entry, Scalable) and 10 in entry.dimensions),
    *("watson-9d", "watson-12d", "michalewicz-5d", "trid-6d", "rosenbrock-4d", "sphere-1d", "schwefel-2.21-3d"),
]
OTHERS = [*WIDE, "booth-rotated", "wood-shifted-7", "ackley-10d-shifted-2-rotated-5", "hartmann-6-rotated"]
EVERY = pytest.mark.parametrize("function", [*FUNCTIONS.values(), *map(named, OTHERS)], ids=[*FUNCTIONS, *OTHERS])


def tensor(point) -> torch.Tensor:
    return torch.tensor(point, dtype=torch.float64)


def somewhere(function: Function, count: int = 7) -> torch.Tensor:
    """Points spread over the domain."""
    low, high = tensor(function.domain).T
    share = torch.tensor(np.random.default_rng(0).random((count, function.dimension)))
    return low + share * (high - low)


def test_there_are_enough_and_their_names_are_keys():
    assert len(FUNCTIONS) >= 60 and len(scalable()) >= 20
    assert all(name == function.name for name, function in FUNCTIONS.items())
    assert {"rosenbrock", "rosenbrock-10d", "ackley", "rastrigin", "beale", "himmelblau"} <= set(FUNCTIONS)


@EVERY
def test_minimum_is_reached_at_every_minimiser(function):
    """To rounding: of terms as large as those of Schwefel 2.26, 419 for each coordinate, little is left."""
    values = function(tensor(function.minimisers))
    assert values.dtype == torch.float64
    largest = 419 * function.dimension if function.name.startswith("schwefel") else 1
    torch.testing.assert_close(values, torch.full_like(values, function.minimum), rtol=1e-13, atol=1e-13 * largest)


@EVERY
def test_nothing_in_the_domain_is_lower(function):
    if function.unbounded_outside and function.rotation is not None:
        pytest.skip("the corners of a turned box lie outside of the domain")
    low = function.minimum - 1e-9 * max(1, abs(function.minimum))
    assert (function(somewhere(function, 20_000)) >= low).all()


@pytest.mark.parametrize("function", SMOOTH, ids=lambda function: function.name)
def test_gradient_is_zero_at_minimisers(function):
    """To rounding of the minimisers, of which the curvature there makes a slope."""
    points = tensor(function.minimisers)
    _, gradient = function.value_and_gradient(points)
    steps = torch.diag_embed(1e-6 * points.abs().clamp_min(1e-6))  # of each coordinate by a part of it
    slopes = function.value_and_gradient(points[:, None] + steps)[1] - gradient[:, None]
    allowed = 1e-12 + 1e-15 / 1e-6 * slopes.abs().sum((1, 2))
    assert (gradient.abs().amax(1) < allowed).all()


@EVERY
def test_start_has_its_published_value_and_is_no_minimiser(function):
    start = tensor(function.start)
    value, gradient = function.value_and_gradient(start)
    if function.start_value is not None:
        assert value.item() == pytest.approx(function.start_value, rel=1e-13)
    assert value > function.minimum + 0.001 and value >= function.basin + 0.001
    assert gradient.norm() > 0.005
    assert all(low <= x <= high for x, (low, high) in zip(function.start, function.domain, strict=True))


#: flow from these slides along kinks, where it has no derivative to follow
SLIDING = ("alpine", "bukin-6", "schwefel-2.20", "schwefel-2.21", "schwefel-2.22", "chebyshev-rosenbrock-nonsmooth")
#: how long flow takes, where 1000 is too short or where it is over at once and rounding would be all that is left
HORIZONS = {
    **{"helical-valley": 10, "schaffer-2": 1e5, "schaffer-4": 1e5, "kowalik-osborne": 1e5, "watson": 1e6, "bard": 1e5},
    **{"biggs-exp6": 1e6, "penalty-10d": 1e6, "griewank-10d": 1e6},
}
#: minutes, or ill-conditioned beyond what float64 can follow
SLOW = {"powell-badly-scaled": 1e12, "powell-singular": 1e6}
BEYOND = ("chebyshev-rosenbrock-10d", "watson-9d", "watson-12d")


def flow_cases():
    for name in (*FUNCTIONS, *WIDE):
        if not name.startswith(SLIDING) and name not in BEYOND:
            marks = pytest.mark.slow if name in SLOW else ()
            yield pytest.param(named(name), {**HORIZONS, **SLOW}.get(name, 1e3), id=name, marks=marks)


@pytest.mark.parametrize(("function", "horizon"), [*flow_cases()])
def test_gradient_flow_from_the_start_ends_in_the_basin(function, horizon):
    def downhill(_, x):
        return -function.value_and_gradient(torch.from_numpy(x))[1].numpy()

    method = "Radau" if function.name in SLOW else "LSODA"
    end = solve_ivp(downhill, (0, horizon), function.start, method=method, rtol=1e-8, atol=1e-10).y[:, -1]
    assert function(tensor(end)).item() == pytest.approx(function.basin, abs=2e-6, rel=1e-8)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name.startswith(SLIDING) and name != "bukin-6"])
def test_short_steps_downhill_slide_into_the_basin(name):
    """Along kinks steps go to and fro; by a step shorter and shorter they come as close as those are short."""
    function = named(name)
    point = tensor(function.start)
    for step in range(20_000):
        point = point - 0.02 / (1 + step / 100) ** 0.5 * function.value_and_gradient(point)[1]
    assert function(point).item() < function.basin + 0.02


@ALL
def test_gradient_is_that_of_finite_differences(function):
    points = somewhere(function)
    width = torch.tensor([high - low for low, high in function.domain], dtype=torch.float64)
    _, gradient = function.value_and_gradient(points)
    for axis in range(function.dimension):
        step = torch.zeros(function.dimension, dtype=torch.float64)
        step[axis] = 1e-7 * width[axis]
        slope = (function(points + step) - function(points - step)) / (2 * step[axis])
        scale = gradient.abs().max(1).values + 1
        assert ((gradient[:, axis] - slope).abs() / scale).max() < 1e-5


@EVERY
def test_value_and_gradient_are_those_of_autograd(function):
    points = somewhere(function).requires_grad_()
    values = function(points)
    (expected,) = torch.autograd.grad(values.sum(), points)
    value, gradient = function.value_and_gradient(points)
    # Both round every operation, and each rounding counts against the largest term. Sines of what is hundreds, or a
    # power of what is large, make a hundred roundings of one.
    part = 1e-12 if function.name.startswith(("salomon", "cross-in-tray")) else 2e-14
    for found, true in ((value, values.detach()), (gradient, expected)):
        scale = true.abs().max().clamp_min(1e-300)  # on the plain of Easom all are 0
        torch.testing.assert_close(found / scale, true / scale, rtol=0, atol=part)


@ALL
def test_batches_of_any_shape(function):
    points = somewhere(function, 6)
    value, gradient = function.value_and_gradient(points.reshape(2, 3, -1))
    one_by_one = [function.value_and_gradient(point) for point in points]
    torch.testing.assert_close(value, torch.stack([v for v, _ in one_by_one]).reshape(2, 3), rtol=1e-14, atol=1e-14)
    expected = torch.stack([g for _, g in one_by_one]).reshape(gradient.shape)
    torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=1e-13)
    assert value.dtype == gradient.dtype == torch.float64


def test_shifting_moves_everything_together():
    function = FUNCTIONS["booth"]
    moved = shifted(function, by=(10.0, -1.0))
    assert moved.start == (5.0, 4.0)
    assert moved.domain == ((0.0, 20.0), (-11.0, 9.0))
    assert moved.minimisers == ((11.0, 2.0),)
    assert moved(tensor(moved.start)) == function(tensor(function.start)) == 104


def test_no_minimiser_is_the_origin():
    for function in FUNCTIONS.values():
        assert all(any(x != 0 for x in minimiser) for minimiser in function.minimisers), function.name


def test_overflow_is_a_number_not_a_warning():
    value, _ = FUNCTIONS["freudenstein-roth"].value_and_gradient(tensor([1e200, 1e200]))
    assert not torch.isfinite(value)


def test_null_competitor_to_the_origin_scores_little():
    """At most 5 of the 32 targets, which are those of the published Rosenbrock, whom nobody would shift."""
    for function in FUNCTIONS.values():
        begin = starts(function, 0, 1)
        there = function(tensor([[0.0] * function.dimension])).numpy()
        assert (there <= begin.thresholds[0]).sum() <= 5, function.name


def test_names_say_what_is_asked_of_a_function():
    assert named("ackley") is named("ACKLEY") is FUNCTIONS["ackley"]
    assert named("ackley-2d").name == "ackley" and named("booth-2d").name == "booth"
    assert named("ackley-10d").name == "ackley-10d" and named("ackley-010d").dimension == 10
    assert named("ackley-10d").start[:4] == FUNCTIONS["ackley"].start * 2
    assert named("schaffer-2-shifted-3-rotated").name == "schaffer-2-shifted-3-rotated"
    assert named("trid-6d").minimum == -50 and named("trid").minimum == -210
    assert named("michalewicz-5d").minimum == pytest.approx(-4.68765817909, abs=1e-10)
    assert named("michalewicz-10d").minimum == pytest.approx(-9.66015171564, abs=1e-10)
    assert named("styblinski-tang-7d").minimum == pytest.approx(7 * -39.1661657037714)
    assert named("rosenbrock-10d").definition is not None and named("rosenbrock-10d") is FUNCTIONS["rosenbrock-10d"]
    for variant in VARIANTS:
        assert known(f"booth{variant}") and named(f"booth{variant}").name == f"booth{variant}"


def test_second_minimum_of_rosenbrock():
    """Of four coordinates: 3.70142861 near (-0.77566, 0.61309, 0.38206, 0.14597)."""
    function = named("rosenbrock-4d")
    moved = tensor(function.minimisers[0]) - 1
    value, gradient = function.value_and_gradient(tensor((-0.77566, 0.61309, 0.38206, 0.14597)) + moved)
    assert value.item() == pytest.approx(3.70142861, abs=1e-6) and gradient.norm() < 0.02
    assert function.basin == pytest.approx(0, abs=1e-9)  # the start flows to the other


def test_basins_of_other_dimensions_are_computed():
    assert named("ackley-3d").basin == pytest.approx(3.5744519, rel=0.2) and named("ackley-3d").basin != 3.5744519
    assert named("levy-2d-rotated").basin == FUNCTIONS["levy"].basin  # a turned flow is the same flow


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rosenbrok", "did you mean 'rosenbrock'"),
        ("beale-5d", "beale has 2 dimensions; beale-5d does not exist."),
        ("rosenbrock-1d", "rosenbrock has 2 to 100 dimensions; rosenbrock-1d does not exist."),
        ("sphere-101d", "sphere has 1 to 100 dimensions; sphere-101d does not exist."),
        ("watson-7d", "watson has 6, 9, 12 dimensions"),
        ("shekel-5-3d-rotated", "shekel-5 has 4 dimensions"),
        ("ackley-rotated-x", "unknown function 'ackley-rotated-x'"),
        ("ackley-rotated-shifted", "unknown function"),
        ("", "unknown function ''"),
    ],
)
def test_names_that_are_none_end_with_exit_2(name, says):
    with pytest.raises(BenchError) as caught:
        named(name)
    assert says in str(caught.value) and caught.value.exit_code == Exit.USAGE


def test_shifts_are_small_and_their_own():
    here, there = named("beale-shifted"), named("beale-shifted-1")
    for one in (here, there):
        moved = np.subtract(one.start, FUNCTIONS["beale"].start)
        assert 0 < np.abs(moved).max() <= 0.9 and np.allclose(np.subtract(one.minimisers, moved), [(3.0, 0.5)])
    assert here.start != there.start


def test_rotation_turns_everything_together():
    for function in (FUNCTIONS["six-hump-camel"], named("wood-shifted-3")):
        rotation = qr_rotation(function.dimension, "any")
        turned = rotated(function, rotation)
        points = somewhere(function, 50)
        torch.testing.assert_close(turned(points @ tensor(rotation)), function(points), rtol=1e-12, atol=1e-12)
        assert turned(tensor(turned.start)).item() == pytest.approx(function(tensor(function.start)).item(), rel=1e-12)
        low, high = np.array(turned.domain).T
        inside = np.vstack([turned.start, turned.minimisers])
        assert (inside >= low).all() and (inside <= high).all() and turned.basin == function.basin
        twice = rotated(turned, rotation.T)
        torch.testing.assert_close(twice(points), function(points), rtol=1e-12, atol=1e-12)


def test_a_turned_domain_is_as_wide_as_before_but_for_what_would_lie_outside():
    function, rotation = FUNCTIONS["branin"], qr_rotation(2, "any")
    low, high = np.array(function.domain).T
    middle, half = (low + high) / 2 @ rotation, (high - low) / 2
    turned = rotated(function, rotation)
    inside = np.vstack([turned.start, turned.minimisers])
    for axis, (left, right) in enumerate(turned.domain):
        assert left in (middle[axis] - half[axis], *inside[:, axis])
        assert right in (middle[axis] + half[axis], *inside[:, axis])
        assert left <= middle[axis] - half[axis] and right >= middle[axis] + half[axis]
    assert middle[0] != pytest.approx((low + high)[0] / 2, abs=1)


def test_a_turned_function_can_be_shifted():
    turned = named("booth-rotated")
    moved, by = shifted(turned, by=(3.0, -1.0)), tensor((3.0, -1.0))
    points = somewhere(turned)
    torch.testing.assert_close(moved(points + by), turned(points), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moved.value_and_gradient(points + by)[1], turned.value_and_gradient(points)[1])


def test_a_rotated_function_of_the_radius_is_itself():
    function = Function(
        name="radius",
        title="",
        definition=lambda x, m: m.sqrt(m.sum(x**2)),
        domain=((-1.0, 1.0),) * 5,
        start=(0.5,) * 5,
        minimisers=((0.0,) * 5,),
        minimum=0.0,
        basin=0.0,
        source="",
    )
    points = somewhere(function, 20)
    turned = rotated(function, qr_rotation(5, "any"))
    for one, other in zip(turned.value_and_gradient(points), function.value_and_gradient(points), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


def test_rotations_are_rotations_drawn_evenly():
    for n in (1, 2, 3, 10):
        q = qr_rotation(n, "seed")
        np.testing.assert_allclose(q @ q.T, np.eye(n), atol=1e-14)
        assert np.linalg.det(q) == pytest.approx(1)
        np.testing.assert_array_equal(q, qr_rotation(n, "seed"))
    corner = np.array([qr_rotation(3, f"{seed}")[0, 0] for seed in range(2000)])
    # A coordinate of a point drawn evenly from the sphere is uniform on [-1, 1]: mean 0, variance 1/3, to 4 sigma.
    assert abs(corner.mean()) < 4 * 3**-0.5 / 2000**0.5 and abs(corner.var() - 1 / 3) < 4 * 0.3 / 2000**0.5


def test_subgradients_are_those_of_torch():
    """At a kink: 0 for an absolute value, and the mean over those that are largest."""

    def definition(x, m):
        return m.max(m.absolute(x)) + m.absolute(x[0] - x[1]) + m.atan2(x[0], x[1]) + m.log(x[2] + 5)

    function = Function("kinks", "", definition, ((-1.0, 1.0),) * 3, (0.5,) * 3, ((0.0,) * 3,), 0.0, 0.0, "")
    points = tensor([[1.0, 1.0, -1.0], [2.0, 2.0, 1.0], [-2.0, 1.0, 0.0], [1.0, -3.0, -3.0], [-1.0, -2.0, -2.0]])
    leaf = points.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(leaf).sum(), leaf)
    value, gradient = function.value_and_gradient(points)
    torch.testing.assert_close(value, function(points), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=1e-14)
