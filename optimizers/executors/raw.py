"""Memory, function pointers and half-precision numbers for compiled code: what Numba does not offer by itself."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import llvm_numbers
from .llvm_numbers import Cell

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def caller(result, *arguments):
    """An intrinsic ``call(address, (arguments...))`` that calls the C function at an address."""

    @intrinsic
    def call(typing, address, values):
        signature = result(types.intp, types.Tuple(arguments))

        def generate(context, builder, signature, values):
            address, packed = values
            kinds = [context.get_value_type(t) for t in arguments]
            returns = ir.VoidType() if result is types.void else context.get_value_type(result)
            function = builder.inttoptr(address, ir.FunctionType(returns, kinds).as_pointer())
            answer = builder.call(function, cgutils.unpack_tuple(builder, packed))
            return context.get_dummy_value() if result is types.void else answer

        return signature, generate

    return call


def _memory(kind, cell):
    """Load and store of one scalar type: the element `index` after a raw address."""

    @intrinsic
    def load(typing, address, index):
        def generate(context, builder, signature, values):
            return cell.load(builder, *values)

        return kind(types.intp, types.intp), generate

    @intrinsic
    def store(typing, address, index, value):
        def generate(context, builder, signature, values):
            cell.store(builder, *values)
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, kind), generate

    return load, store


word, set_word = _memory(types.intp, Cell(_I64, _I64))
get_float64, set_float64 = _memory(types.float64, llvm_numbers.FLOAT64)
get_float32, set_float32 = _memory(types.float32, llvm_numbers.FLOAT32)
get_uint32, set_uint32 = _memory(types.uint32, Cell(_I32, _I32))


get_float16, set_float16 = _memory(types.float32, llvm_numbers.FLOAT16)
get_bfloat16, set_bfloat16 = _memory(types.float32, llvm_numbers.BFLOAT16)


@intrinsic
def add(typing, x, y):
    """Two floats of one type in a sum whose terms may be added in any order, which vector instructions need."""

    def generate(context, builder, signature, values):
        return builder.fadd(*values, flags=("contract", "reassoc"))

    return x(x, x), generate


@intrinsic
def fetch_add(typing, address, amount):
    """Atomically adds to the integer at an address and returns what was there."""

    def generate(context, builder, signature, values):
        return builder.atomic_rmw("add", builder.inttoptr(values[0], _I64.as_pointer()), values[1], "monotonic")

    return types.intp(types.intp, types.intp), generate


def _bitcast(source, target):
    @intrinsic
    def cast(typing, value):
        def generate(context, builder, signature, values):
            return builder.bitcast(values[0], context.get_value_type(target))

        return target(source), generate

    return cast


bits_of_float32 = _bitcast(types.float32, types.uint32)
float32_of_bits = _bitcast(types.uint32, types.float32)
bits_of_float64 = _bitcast(types.float64, types.uint64)
float64_of_bits = _bitcast(types.uint64, types.float64)
