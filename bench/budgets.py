"""How much a run measures: `smoke` for CI, `default` for a coffee break, `full` for a claim."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Numbers only; what they mean is written where they are used."""

    name: str
    verify_dtypes: tuple[str, ...]
    verify_steps: int
    verify_all_options: bool  # False: each optimizer with its defaults and its richest option set
    verify_low_precision: bool  # the same for bfloat16 and float16, whose kernels take as long to compile
    contenders: tuple[str, ...]
    parameter_sets: tuple[str, ...]
    cell_seconds: float  # timing stops here even if the interval is still too wide
    function_names: tuple[str, ...] | None  # None: all of them
    function_steps: int
    function_learning_rates: int
    function_seeds: int
    function_slow_seeds: int  # of optimizers whose runs are not compiled: L-BFGS takes a hundred times as long
    function_tuning_seeds: int  # the first ones, on which learning rates are chosen; never scored
    function_extra_rates: int  # on each side of the grid, at most, where its best is the last one there
    network_names: tuple[str, ...] | None
    network_steps: int
    network_learning_rates: int
    network_extra_rates: int  # as of functions
    network_seeds: int
    loss_names: tuple[str, ...] | None
    loss_dtypes: tuple[str, ...]  # in which they are verified
    loss_sizes: tuple[str, ...]  # at which they are timed
    loss_contenders: tuple[str, ...]
    loss_seconds: float  # for each of forward, backward and both
    sweep_functions: tuple[str, ...] | None  # on which sweeps are timed
    sweep_optimizers: tuple[str, ...]
    sweep_dtypes: tuple[str, ...]
    sweep_contenders: tuple[str, ...]
    sweep_seconds: float
    lr_multiples: tuple[float, ...] | None = None  # in place of the grid around each default
    target: float | None = None  # a loss that is the only target of a race on one problem, in place of the list

    def own_target(self) -> dict[str, float]:
        """What such a target adds to the settings of a cell; nothing without one, so that ids stay as they are."""
        return {} if self.target is None else {"target": self.target}


# One for each way to measure an error, and both for classes.
LOSSES = ("cross_entropy", "mse_loss", "huber_loss", "binary_cross_entropy_with_logits", "sigmoid_focal_loss")

SMOKE = Budget(
    name="smoke",
    verify_dtypes=("float32",),
    verify_steps=10,
    verify_all_options=False,
    verify_low_precision=False,
    contenders=("ours", "loop", "foreach", "fused"),
    parameter_sets=("mlp", "embedding"),
    cell_seconds=0.2,
    function_names=("rosenbrock", "rastrigin"),
    function_steps=100,
    function_learning_rates=3,
    function_seeds=3,
    function_slow_seeds=2,
    function_tuning_seeds=1,
    function_extra_rates=1,
    network_names=("regression",),
    network_steps=60,
    network_learning_rates=1,
    network_extra_rates=0,
    network_seeds=1,
    loss_names=("cross_entropy", "mse_loss"),
    loss_dtypes=("float32",),
    loss_sizes=("64Ki",),
    loss_contenders=("ours", "torch"),
    loss_seconds=0.05,
    sweep_functions=("rosenbrock-2d",),
    sweep_optimizers=("Adam",),
    sweep_dtypes=("float64",),
    sweep_contenders=("ours", "batched"),
    sweep_seconds=0.05,
)

DEFAULT = Budget(
    name="default",
    verify_dtypes=("float32", "float64", "bfloat16", "float16"),
    verify_steps=12,
    verify_all_options=True,
    verify_low_precision=False,
    contenders=("ours", "loop", "foreach", "fused"),
    parameter_sets=(
        *("mlp", "many-small", "many-medium", "resnet18"),
        *("many-groups", "matrices-200x64", "embedding"),
    ),
    cell_seconds=0.25,
    function_names=None,
    function_steps=500,
    function_learning_rates=7,
    function_seeds=32,
    function_slow_seeds=3,
    function_tuning_seeds=1,
    function_extra_rates=6,
    network_names=("regression", "logistic", "digits", "autoencoder", "factorisation"),  # the CNN takes as long as all
    network_steps=200,
    network_learning_rates=3,
    network_extra_rates=3,
    network_seeds=3,
    loss_names=LOSSES,
    loss_dtypes=("float32", "bfloat16"),
    loss_sizes=("4096x10", "512x1000", "64Ki", "1Mi"),
    loss_contenders=("ours", "torch"),
    loss_seconds=0.15,
    sweep_functions=("rosenbrock-2d",),
    sweep_optimizers=("Adam",),
    sweep_dtypes=("float64",),
    sweep_contenders=("ours", "batched", "alone"),
    sweep_seconds=1.0,
)

FULL = Budget(
    name="full",
    verify_dtypes=("float32", "float64", "bfloat16", "float16"),
    verify_steps=100,
    verify_all_options=True,
    verify_low_precision=True,
    contenders=("ours", "loop", "foreach", "fused", "compiled"),
    parameter_sets=(
        *("mlp", "many-small", "many-medium", "resnet18", "one-big", "gpt2", "many-groups"),
        *("matrices-400x32", "matrices-200x64", "matrices-100x256", "embedding", "vector-100k"),
    ),
    cell_seconds=4.0,
    function_names=None,
    function_steps=2000,
    function_learning_rates=15,
    function_seeds=67,
    function_slow_seeds=6,
    function_tuning_seeds=3,
    function_extra_rates=6,
    network_names=None,
    network_steps=1000,
    network_learning_rates=7,
    network_extra_rates=4,
    network_seeds=5,
    loss_names=None,
    loss_dtypes=("float32", "float64", "bfloat16", "float16"),
    loss_sizes=(
        *("64x10", "4096x10", "512x1000", "1024x32000", "4Ki", "64Ki", "1Mi", "4Mi"),
        *("64x64", "4096x256", "50x16x20", "150x32x29"),
    ),
    loss_contenders=("ours", "torch", "compiled", "liger"),
    loss_seconds=0.5,
    sweep_functions=None,
    sweep_optimizers=("Adam", "SGD"),
    sweep_dtypes=("float64", "float32"),
    sweep_contenders=("ours", "batched", "alone", "optax"),
    sweep_seconds=6.0,
)

BUDGETS = {budget.name: budget for budget in (SMOKE, DEFAULT, FULL)}
