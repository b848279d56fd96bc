"""Memory, function pointers and half-precision numbers for compiled code: what Numba does not offer by itself."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I64 = ir.IntType(64)


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


def _memory(kind):
    """Load and store of one scalar type: the element `index` after a raw address."""

    def element(context, builder, address, index):
        pointer = builder.inttoptr(address, context.get_data_type(kind).as_pointer())
        return builder.gep(pointer, [index], inbounds=True)

    @intrinsic
    def load(typing, address, index):
        def generate(context, builder, signature, values):
            return builder.load(element(context, builder, *values))

        return kind(types.intp, types.intp), generate

    @intrinsic
    def store(typing, address, index, value):
        def generate(context, builder, signature, values):
            builder.store(values[2], element(context, builder, *values[:2]))
            return context.get_dummy_value()

        return types.void(types.intp, types.intp, kind), generate

    return load, store


word, set_word = _memory(types.intp)
get_float64, set_float64 = _memory(types.float64)
get_float32, set_float32 = _memory(types.float32)
get_uint16, set_uint16 = _memory(types.uint16)
get_uint32, set_uint32 = _memory(types.uint32)


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


@intrinsic
def float32_of_float16(typing, value):
    """The float32 that sixteen bits of IEEE half precision stand for."""

    def generate(context, builder, signature, values):
        return builder.fpext(builder.bitcast(values[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def float16_of_float32(typing, value):
    """The sixteen bits of the nearest IEEE half, ties to even."""

    def generate(context, builder, signature, values):
        return builder.bitcast(builder.fptrunc(values[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), generate
