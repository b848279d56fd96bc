"""Optimizers of the user's own, by file and class or by module and class: ``lion.py:Lion``, ``mypackage.lion:Lion``.

One that is loaded here stands in the table of contenders like any other; everything else follows from there.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from pathlib import Path
from types import ModuleType

import torch

from bench.contenders import NULLS, OPTIMIZERS, TRAITS, Traits
from bench.errors import BenchError, Exit, first_line, unknown
from optimizers import Optimizer

HOW = "file.py:Class or package.module:Class"
BY_RULE = ("step", "update", "initialize", "slots", "states")  # with those of our base class the rule is all there is
LIBRARIES = ("torch", "optimizers")  # whose classes and versions the environment of a run names anyway


def named(name: str) -> str:
    """The optimizer that `name` means, as the table has it: one that is there whatever its case, or one to be loaded.

    Raises `BenchError` (exit 2) with one sentence for what is none, or cannot be measured.
    """
    if ":" in name or name.endswith(".py"):
        return add(name)
    for candidate in TRAITS:
        if candidate.lower() == name.lower():
            return candidate
    raise unknown("optimizer", name, OPTIMIZERS)


def add(place: str) -> str:
    """Loads the class at `place`, ``lion.py:Lion``, and puts it into the table of contenders; its name there."""
    where, _, name = place.rpartition(":")
    if not where or not name.isidentifier():
        raise refused(place, f"a class of yours is given as {HOW}, such as lion.py:Lion")
    module = load(place, where)
    cls = getattr(module, name, None)
    if cls is None:
        classes = [key for key, value in vars(module).items() if is_optimizer(value)]
        raise refused(place, f"there is no {name} in {where}; optimizers there: {', '.join(classes) or 'none'}")
    if not is_optimizer(cls):
        raise refused(place, f"{name} is no optimizer: it has to be a subclass of optimizers.Optimizer or of torch's")
    name = cls.__name__
    if name.lower() in map(str.lower, (*OPTIMIZERS, *NULLS)):
        raise refused(place, f"there is a {name} already, and rows go by names; give the class another one")
    before = TRAITS.get(name)
    if before is not None and files(before.own) != files(cls):
        raise refused(place, f"two classes of yours are called {name}, and rows go by names; rename one of them")
    built = check(place, cls)
    ours = issubclass(cls, Optimizer)
    TRAITS[name] = Traits(
        foreach=False,
        eager=None,
        kernels=cls.algorithm.kernels if ours else (),
        half_kernels=ours and cls.algorithm.half_kernels,
        apart=not (ours and by_rule(built)),
        own=cls,
        place=place,
        source=digest(cls),
    )
    return name


def refused(place: str, why: str) -> BenchError:
    return BenchError(f"optimizer {place}: {why}.", Exit.USAGE)


def is_optimizer(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, torch.optim.Optimizer)


def load(place: str, where: str) -> ModuleType:
    """The module in the file `where`, or of that name; both may import what lies beside them."""
    path = Path(where)
    is_file = path.suffix == ".py" or path.is_file()
    if is_file and not path.is_file():
        raise refused(place, f"there is no file {where}")
    folder = str(path.resolve().parent if is_file else Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)  # last: nothing there may stand in for what is installed
    try:
        return load_file(path) if is_file else importlib.import_module(where)
    except (Exception, SystemExit) as error:  # a file may do anything while it is imported
        why = f"{type(error).__name__}: {first_line(error)}".rstrip(".")
        raise refused(place, f"{where} cannot be imported: {why}") from None


def load_file(path: Path) -> ModuleType:
    """The module in a file, under a name that no other module has."""
    name = f"own_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def by_rule(built: Optimizer) -> bool:
    """Whether an optimizer steps each parameter by itself, by its rule and nothing else.

    What methods of its own or hooks look at and change, only its author knows.
    """
    hooks = built._optimizer_step_pre_hooks or built._optimizer_step_post_hooks
    return not hooks and all(getattr(type(built), name) is getattr(Optimizer, name) for name in BY_RULE)


def check(place: str, cls: type) -> torch.optim.Optimizer:
    """One over a vector, if it can be built from parameters alone, has a default lr, and steps on gradients."""
    parameters = list(inspect.signature(cls).parameters.values())
    if needed := [one.name for one in parameters[1:] if is_needed(one)]:
        names = ", ".join(needed)
        raise refused(place, f"{cls.__name__} needs arguments besides the parameters: {names}; give each a default")
    try:
        built = cls([torch.zeros(1)])
        lr = built.defaults.get("lr")
        built = cls([{"params": [torch.zeros(1)], **({} if lr is None else {"lr": lr})}])
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {first_line(error)}".rstrip(".")
        raise refused(place, f"{cls.__name__} cannot be built over a vector: {why}") from None
    if not isinstance(lr, int | float | torch.Tensor) or not 0 < float(lr) < math.inf:
        said = "none" if lr is None else repr(lr)
        raise refused(
            place,
            f"{cls.__name__} has no default lr above 0 (it has {said}), and a race tries learning rates around it; "
            "give its __init__ one",
        )
    if [one for one in inspect.signature(built.step).parameters.values() if is_needed(one)]:
        raise refused(
            place,
            f"the step of {cls.__name__} needs a closure, and what is raced here steps on gradients that are there; "
            "write step(self, closure=None)",
        )
    return built


def anchored(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same, whose parameters and gradients stay in the memory that a race writes to and reads from.

    A class may give them other memory in its step: ``p.data = p.data - lr * p.grad``, ``p.grad = None``.
    """
    kept = [(p, p.data, p.grad) for group in optimizer.param_groups for p in group["params"]]

    def put_back(*_: object) -> None:
        for p, data, gradient in kept:
            if p.data_ptr() != data.data_ptr():
                data.copy_(p.data)
            p.grad = gradient

    optimizer.register_step_post_hook(put_back)
    return optimizer


def is_needed(parameter: inspect.Parameter) -> bool:
    """Whether a call has to give this argument."""
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in variable


def files(cls: type) -> list[str]:
    """The files of a class and its bases, those of torch and of ours left out."""
    bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in (*LIBRARIES, "builtins")]
    found = [getattr(sys.modules.get(base.__module__), "__file__", None) for base in bases]
    return list(dict.fromkeys(path for path in found if path))


def digest(cls: type) -> str:
    """What tells an edited optimizer from the one that was measured: a hash of its files and what they import there.

    That is, of all that was imported from the folders of `files`.
    """
    folders = {Path(path).parent for path in files(cls)}
    loaded = {getattr(module, "__file__", None) or "" for module in sys.modules.values()}
    parts = sorted(path for path in loaded if Path(path).parent in folders and Path(path).is_file())
    return hashlib.sha256(b"\0".join(Path(path).read_bytes() for path in parts)).hexdigest()[:16]
