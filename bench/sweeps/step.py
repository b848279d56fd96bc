"""The compiled step of an optimizer in a sweep: the numbers that all runs share, each run's coefficients, the rule."""

from __future__ import annotations

from collections.abc import Iterable

from bench.sweeps import layout
from bench.sweeps.layout import BEGINNING, COMMON, HEAD, INLINE, STRIDE, double, over_lanes, put_double
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
        rows = [*self.columns, *self.common, *algorithm.scalars, *(f"power_{k}" for k in range(self.split.count))]
        rows += [f"c_{name}" for name in algorithm.outputs if name not in self.split.outputs]
        self.row = {name: len(COMMON) + i for i, name in enumerate(rows)}
        if len(COMMON) + len(rows) > HEAD or 2 + len(self.slots) > STRIDE or len(self.split.numbers) > TABLE_WIDTH:
            raise TypeError(f"a sweep has no place for {len(rows)} numbers and {len(self.slots)} states")

    def source(self) -> str:
        """The module with ``begin(b)``; ``uniform_of(b, table, count, first)``, which fills rows of the table for so
        many steps; ``powers_of(b, row, distinct, first_of)`` if there are powers; ``coefficients_of(b, row, first)``;
        and, for the coordinate whose rows begin at `at`, ``rule_of(b, at, row)``.
        """
        parts = [BEGINNING]
        for text in (self.split.uniform, self.split.powers, self.split.coefficients):
            parts += ["@njit(**{**INNER, 'fastmath': False}, forceinline=True)", text]
        parts += [f"@{INLINE}", definition(self.algorithm.rule, "rule")]
        compiled = "cfunc('void({})', cache=True, **OPTIONS)".format
        parts += [
            layout.function("begin", "b, dimension", self._begin(), compiled("intp, intp")),
            layout.function(
                "uniform_of", "b, table, count, first", self._uniform(), compiled("intp, intp, intp, float64")
            ),
            layout.function("coefficients_of", "b, row, first", self._coefficients(), compiled("intp, intp, float64")),
            layout.function("rule_of", "b, at, row", self._rule(), compiled("intp, intp, intp")),
        ]
        if self.split.count:
            arguments = compiled("intp, intp, intp, intp")
            parts.append(layout.function("powers_of", "b, row, distinct, first_of", self._powers(), arguments))
        return "\n".join(parts)

    def _lane(self, name: str) -> str:
        """The lane that a number of this lane is in: what all runs have in common is in the first."""
        return "l" if name in self.split.varying else "0"

    def _init(self, init: float | str) -> str:
        return double(self.row[init], self._lane(init)) if isinstance(init, str) else f"float64({init})"

    def _begin(self) -> list[str]:
        varying = {name: init for name, init in self.algorithm.scalars.items() if name in self.split.varying}
        scalars = [put_double(self.row[n], f"stored_float32({self._init(i)})") for n, i in varying.items()]
        states = [
            layout.put(
                self.real, HEAD + 2 + k, f"{self.real}({self._init(self.algorithm.slots[name].init)})", "i", STRIDE
            )
            for k, name in enumerate(self.slots)
        ]
        lines = over_lanes(scalars)
        return [*lines, "for i in range(dimension):", *layout.indented(over_lanes(states) or ["pass"])]

    def _number(self, name: str, base: str = "row") -> tuple[str, str]:
        """The type and the place of one number of a step: an output has the type of the coordinates."""
        k = self.split.numbers.index(name)
        if self.real == "float32" and name in self.split.outputs.values():
            return "float32", f"{base}, {2 * k}"
        return "float64", f"{base}, {k}"

    def _uniform(self) -> list[str]:
        """The states that all runs have in common are kept from call to call."""
        split, scalars = self.split, self.algorithm.scalars
        alike = {name: self.row[name] for name in scalars if name not in split.varying}
        begin = [put_double(row, f"stored_float32({self._init(scalars[n])})", "0") for n, row in alike.items()]
        supplied = {"first": "first", "stored": "stored_float32"} | dict.fromkeys(split.varying, "0.0")
        values = [supplied.get(name) or double(self.row[name], "0") for name in self.algorithm.inputs]
        lines = [f"{', '.join(split.numbers)}, = uniform({', '.join(values)})"]
        lines += [put_double(row, f"stored_float32({split.states[name]})", "0") for name, row in alike.items()]
        for name in split.numbers:
            kind, place = self._number(name, f"table + {8 * TABLE_WIDTH} * t")
            lines.append(f"set_{kind}({place}, {kind}({name}))")
        begin = ["if first != 0.0:", *layout.indented(begin)] if begin else []
        return [*begin, "for t in range(count):", *layout.indented([*lines, "first = 0.0"])]

    def _numbers(self, names: Iterable[str]) -> list[str]:
        """Takes numbers of this step from the table, ahead of a loop over lanes."""
        return [f"{name} = get_{kind}({place})" for name in names for kind, place in [self._number(name)]]

    def _arguments(self, lane: str, first: str) -> list[str]:
        supplied = {"first": first, "stored": "stored_float32"}
        own = [supplied.get(name, "0.0") for name in self.algorithm.inputs]
        for i, name in enumerate(self.algorithm.inputs):
            if name in self.split.varying:
                own[i] = double(self.row[name], lane)
        return [*own, *self.split.numbers]

    def _powers(self) -> list[str]:
        """Each distinct setting's powers are computed once and handed to the lanes up to the next setting."""
        lines = [
            *self._numbers(self.split.numbers),
            "for j in range(distinct):",
            "    k = word(first_of, j)",
            "    stop = word(first_of, j + 1) if j + 1 < distinct else LANES",
            f"    answer = powers({', '.join(self._arguments('k', '0.0'))})",
        ]
        for k in range(self.split.count):
            lines += [f"    power = answer[{k}]", "    for l in range(k, stop):"]
            lines.append(f"        {put_double(self.row[f'power_{k}'], 'power')}")
        return lines

    def _coefficients(self) -> list[str]:
        """Advances the scalar state, and keeps the coefficients, rounded as the kernels of the library round them."""
        split = self.split
        arguments = self._arguments("l", "first") + [double(self.row[f"power_{k}"]) for k in range(split.count)]
        kept: dict[str, str] = {}
        for i, name in enumerate(split.answers):
            state = name.removeprefix("new_")
            if name == f"new_{state}" and state in self.algorithm.scalars:
                kept[name] = put_double(self.row[state], f"stored_float32(answer[{i}])")
            else:
                kept[name] = layout.put(self.real, self.row[f"c_{name}"], f"{self.real}(answer[{i}])")
        call = f"answer = coefficients({', '.join(arguments)})"
        once = [kept[name] for name in kept if name in split.constant]
        always = [kept[name] for name in kept if name not in split.constant]
        lines = ["if first != 0.0:", *layout.indented(over_lanes([call, *once]))] if once else []
        lines += over_lanes([call, *always]) if always else []
        return [*self._numbers(split.numbers), *lines] if lines else ["pass"]

    def _rule(self) -> list[str]:
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
        return [
            *self._numbers(alike.values()),
            *over_lanes(
                [
                    f"{', '.join(f'{n}_new' for n in ['p', *slots])}, = rule({', '.join(values)})",
                    *(layout.put(self.real, place[n], f"{self.real}({n}_new)", base="at") for n in ["p", *self.slots]),
                ]
            ),
        ]
