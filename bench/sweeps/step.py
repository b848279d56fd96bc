"""The compiled step of an optimizer in a sweep: the numbers that all runs share, each run's coefficients, the rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from bench.sweeps import layout
from bench.sweeps.layout import BEGINNING, COMMON, HEAD, STRIDE, double, over_lanes, put_double
from bench.sweeps.split import split
from optimizers.algorithm import Algorithm
from optimizers.executors.sources import definition

#: steps whose uniform numbers are computed together, and how many numbers a step has at most
TABLE, TABLE_WIDTH = 512, 24


class Step:
    """An optimizer's coefficients and rule, with the rows they take, for the states in `present`.

    varying: the options in which runs differ, and maybe others.
    """

    def __init__(self, algorithm: Algorithm, present: tuple[bool, ...], real: str, varying: frozenset[str]) -> None:
        self.algorithm, self.real = algorithm, real
        self.slots = [name for name, there in zip(algorithm.slots, present, strict=True) if there]
        inits = [*algorithm.scalars.values(), *(algorithm.slots[name].init for name in self.slots)]
        names = dict.fromkeys([*algorithm.hyper, "direction", *(init for init in inits if isinstance(init, str))])
        #: what each run brings, and what all runs have in common
        self.columns = [name for name in names if name in varying]
        self.common = [name for name in names if name not in varying]
        self.split = split(algorithm, frozenset(self.columns))
        rows = [*self.columns, *self.common, *algorithm.scalars, *self.split.power_names]
        rows += [f"c_{name}" for name in algorithm.outputs if name not in self.split.outputs]
        self.row = {name: len(COMMON) + i for i, name in enumerate(rows)}
        #: the numbers of a step that coefficients are made of, and those that are coefficients
        self.outputs = tuple(dict.fromkeys(self.split.outputs.values()))
        self.inner = tuple(name for name in self.split.numbers if name not in self.outputs)
        if len(COMMON) + len(rows) > HEAD or 2 + len(self.slots) > STRIDE or len(self.split.numbers) > TABLE_WIDTH:
            raise TypeError(f"a sweep has no place for {len(rows)} numbers and {len(self.slots)} states")

    def source(self) -> str:
        """The module with ``uniform_of(b, table, count, first)``, which fills the table for so many steps;
        ``coefficients_of(b, row, first, distinct, first_of)``, of the step with that row of the table; and, for the
        coordinate whose rows begin at `at`, ``rule_of(b, at, row)``.

        What is done in a loop is `traced`, so that Numba need not read it.
        """
        exact = "cfunc('void({})', cache=True, **{{**OPTIONS, 'fastmath': False}})".format
        parts = [
            *self._uniform(exact("intp, intp, intp, float64")),
            *self._coefficients(exact("intp, intp, float64, intp, intp")),
            *self._rule("cfunc('void(intp, intp, intp)', cache=True, **OPTIONS)"),
        ]
        return "\n".join([BEGINNING, *parts])

    def begin(self, common: Mapping[str, float]) -> np.ndarray:
        """What varying scalars and the states begin with, [numbers, 3]: the row; the row it is copied from or -1; the
        value if there is none. `common` are the values of what runs have in common.
        """
        rows = {self.row[name]: init for name, init in self.algorithm.scalars.items() if name in self.split.varying}
        rows |= {HEAD + 2 + k: self.algorithm.slots[name].init for k, name in enumerate(self.slots)}
        return np.array(
            [
                (row, self.row[init], 0.0) if init in self.columns else (row, -1, common.get(init, init))
                for row, init in rows.items()
            ],
            np.float64,
        ).reshape(-1, 3)

    def _number(self, name: str, base: str = "row") -> tuple[str, str]:
        """The type and the place of one number of a step: an output has the type of the coordinates."""
        k = self.split.numbers.index(name)
        if self.real == "float32" and name in self.outputs:
            return "float32", f"{base}, {2 * k}"
        return "float64", f"{base}, {k}"

    def _uniform(self, compiler: str) -> list[str]:
        """The states that all runs have in common are kept from call to call."""
        split, scalars = self.split, self.algorithm.scalars
        alike = {name: self.row[name] for name in scalars if name not in split.varying}
        inits = {
            row: double(self.row[scalars[n]], "0") if isinstance(scalars[n], str) else f"float64({scalars[n]})"
            for n, row in alike.items()
        }
        begin = [put_double(row, f"stored_float32({init})", "0") for row, init in inits.items()]
        lines = [
            *(f"v_{name} = {self._input(name, '0')}" for name in self.algorithm.inputs if name not in split.varying),
            *split.uniform,
            *(put_double(row, f"stored_float32({split.states[name]})", "0") for name, row in alike.items()),
        ]
        for name in split.numbers:
            kind, place = self._number(name, f"table + {8 * TABLE_WIDTH} * t")
            lines.append(f"set_{kind}({place}, {kind}({name}))")
        calls = ["for t in range(count):", "    uniform(b, table, t, first)", "    first = 0.0"]
        if begin:
            calls = ["if first != 0.0:", "    beginning(b)", *calls]
        return [
            layout.function("beginning", "b", begin, "exact()") if begin else "",
            layout.function("uniform", "b, table, t, first", lines or ["pass"], "exact()"),
            layout.function("uniform_of", "b, table, count, first", calls, compiler),
        ]

    def _input(self, name: str, lane: str) -> str:
        supplied = {"first": "first", "stored": "0.0"}  # the second is a function, by another name
        return supplied.get(name) or double(self.row[name], lane)

    def _numbers(self, names: Iterable[str]) -> list[str]:
        """Takes numbers of this step from the table, ahead of a loop over lanes."""
        return [f"{name} = get_{kind}({place})" for name in names for kind, place in [self._number(name)]]

    def _inputs(self, lane: str) -> list[str]:
        return [f"v_{name} = {self._input(name, lane)}" for name in self.algorithm.inputs if name in self.split.varying]

    def _powers(self) -> tuple[list[str], list[str]]:
        """The functions, and the loop: each distinct setting's powers are computed once and handed to the lanes up to
        the next setting.
        """
        names = self.split.power_names
        if not names:
            return [], []
        arguments = ", ".join(["b", "k", *self.inner])
        lines = [*self._inputs("k"), *self.split.powers, f"return {', '.join(names)},"]
        functions = [layout.function("powers", arguments, lines, "exact()")]
        stop = "stop = word(first_of, j + 1) if j + 1 < distinct else LANES"
        loop = ["k = word(first_of, j)", stop, f"{', '.join(names)}, = powers({arguments})"]
        for name in names:
            loop += ["for l in range(k, stop):", f"    {put_double(self.row[name], name)}"]
        return functions, ["for j in range(distinct):", *layout.indented(loop)]

    def _coefficients(self, compiler: str) -> list[str]:
        """Advances the scalar state, and keeps the coefficients, rounded as the kernels of the library round them."""
        split = self.split
        computed = [
            *self._inputs("l"),
            *(f"{name} = {double(self.row[name])}" for name in split.power_names),
            *split.coefficients,
        ]
        states = {f"new_{name}": self.row[name] for name in self.algorithm.scalars}
        kept = {
            name: put_double(states[name], f"stored_float32({value})")
            if name in states
            else layout.put(self.real, self.row[f"c_{name}"], f"{self.real}({value})")
            for name, value in split.answers.items()
        }
        once = [kept[name] for name in kept if name in split.constant]
        always = [kept[name] for name in kept if name not in split.constant]
        functions, lines = self._powers()
        arguments = ", ".join(["b", "l", "first", *self.inner])
        for name, stores in {"once": once, "always": always}.items():
            if stores:
                functions.append(layout.function(name, arguments, [*computed, *stores], "exact()"))
                loop = over_lanes([f"{name}({arguments})"])
                lines += ["if first != 0.0:", *layout.indented(loop)] if name == "once" else loop
        lines = [*self._numbers(self.inner), *lines, "return"]
        return [*functions, layout.function("coefficients_of", "b, row, first, distinct, first_of", lines, compiler)]

    def _rule(self, compiler: str) -> list[str]:
        """One coordinate. A loop over all of them around this one would keep it from becoming vector instructions:

        the compiler asks once, ahead of such a loop, whether any row of one kind lies among those of another.
        """
        slots = list(self.algorithm.slots)
        place = {name: HEAD + 2 + k for k, name in enumerate(self.slots)} | {"p": HEAD, "g": HEAD + 1}
        alike = self.split.outputs
        values = [layout.get(self.real, place[n], base="at") if n in place else "None" for n in ["p", "g", *slots]]
        values += [
            alike[name] if name in alike else layout.get(self.real, self.row[f"c_{name}"])
            for name in self.algorithm.outputs
        ]
        arguments = ", ".join(["b", "at", "l", *self.outputs])
        lines = [
            *definition(self.algorithm.rule, "rule").splitlines(),
            f"{', '.join(f'{n}_new' for n in ['p', *slots])}, = rule({', '.join(values)})",
            *(layout.put(self.real, place[n], f"{n}_new", base="at") for n in ["p", *self.slots]),
        ]
        loop = [*self._numbers(self.outputs), *over_lanes([f"lane({arguments})"])]
        return [
            layout.function("lane", arguments, lines, "traced"),
            layout.function("rule_of", "b, at, row", loop, compiler),
        ]
