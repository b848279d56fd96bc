"""Memory, function pointers and half-precision numbers for compiled code: what Numba does not offer by itself."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import llvm_numbers

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


def _memory(kind, cell=None, read=None, write=None):
    """Load and store of one scalar type: the element `index` after a raw address.

    cell: the LLVM type in memory, if it is another; read, write: what then makes a number of it, and it of a number.
    """

    def element(context, builder, address, index):
        return llvm_numbers.element(builder, address, index, cell or context.get_data_type(kind))

    @intrinsic
    def load(typing, address, index):
        def generate(context, builder, signature, values):
            value = builder.load(element(context, builder, *values))
            return read(builder, value) if read else value

        return kind(types.intp, types.intp), generate

    @intrinsic
    def store(typing, address, index, value):
        def generate(context, builder, signature, values):
            value = write(builder, values[2]) if write else values[2]
            builder.store(value, element(context, builder, *values[:2]))
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, kind), generate

    return load, store


word, set_word = _memory(types.intp)
get_float64, set_float64 = _memory(types.float64)
get_float32, set_float32 = _memory(types.float32)
get_uint32, set_uint32 = _memory(types.uint32)


def _of_half(builder, value):
    return builder.fpext(value, ir.FloatType())


def _to_half(builder, value):
    """The nearest half, ties to even."""
    return builder.fptrunc(value, ir.HalfType())


def _of_bfloat16(builder, value):
    return (llvm_numbers.Number(builder, builder.zext(value, _I32)) << 16).of_bits().value


def _to_bfloat16(builder, value):
    """The nearest one, ties to even; a nan keeps its quiet bit instead of rounding into infinity."""
    x = llvm_numbers.Number(builder, value)
    rounded = (x.bits() + 0x7FFF + ((x.bits() >> 16) & 1)) >> 16
    return builder.trunc(llvm_numbers.where(x == x, rounded, 0x7FC0).value, ir.IntType(16))


# half types are worked with in float32
get_float16, set_float16 = _memory(types.float32, ir.HalfType(), _of_half, _to_half)
get_bfloat16, set_bfloat16 = _memory(types.float32, ir.IntType(16), _of_bfloat16, _to_bfloat16)


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
