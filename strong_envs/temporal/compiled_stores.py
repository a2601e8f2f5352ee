"""Writing past the caches: rows of observations that would push everything else out of them.

An ordinary store reads the line of memory that it is about to overwrite, and leaves it in the cache. For a batch larger
than the caches both are waste: the line is read for nothing, and it throws out the features that the next row needs.
Processors have stores without either (*non-temporal* ones, what ``memcpy`` uses for large blocks), and LLVM emits them,
but only for whole aligned vectors, which numba does not make on its own.

Measured with the observations of ``strong-envs throughput`` (8,898 numbers, 1,024 environments, one thread, the
variants in turns in one process, AMD EPYC): with such stores 432,000 steps/s and 1.28 of a plain gather, without them
319,000 steps/s and .89 (medians; ratio .75). Where a step is further from a gather that share decides whether .7 is
reached, so they stay. Batches below `STREAM_BYTES` do not use them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

LANES = 16
"""float32 numbers of a vector: 64 bytes, a line of the cache."""

STREAM_BYTES = 16 << 20
"""Batches of at least this size are streamed. Smaller ones stay in the caches, where their reader finds them."""


def intrinsics() -> SimpleNamespace:
    """What numba code may call to stream.

    ``stream_copy(target, source, count)`` and ``stream_mean(target, high, low, mean, share, weight, count)``, which
    writes ``(high - low) * share + mean * weight``, take addresses; targets divide by 64 and counts by `LANES`.
    ``stream_end()`` has to be called before another thread may look.
    """
    from llvmlite import ir  # type: ignore[import-not-found, import-untyped]
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    vector = ir.VectorType(ir.FloatType(), LANES)

    def repeated(builder: Any, number: Any) -> Any:
        nothing = ir.Constant(vector, ir.Undefined)
        first = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))

    def loop(builder: Any, target: Any, sources: list[Any], count: Any, combine: Any) -> None:
        once = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        step, zero = ir.Constant(count.type, LANES), ir.Constant(count.type, 0)
        with cgutils.for_range_slice(builder, zero, count, step, intp=count.type) as (index, _):
            offset = builder.mul(index, ir.Constant(count.type, 4))
            loaded = []
            for source in sources:
                value = builder.load(builder.inttoptr(builder.add(source, offset), vector.as_pointer()))
                value.align = 4
                loaded.append(value)
            where = builder.inttoptr(builder.add(target, offset), vector.as_pointer())
            builder.store(combine(*loaded), where, align=4 * LANES).set_metadata("nontemporal", once)

    @intrinsic
    def stream_copy(context: Any, target: Any, source: Any, count: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            target, source, count = arguments
            loop(builder, target, [source], count, lambda value: value)
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp, types.intp), generate

    @intrinsic
    def stream_mean(
        context: Any, target: Any, high: Any, low: Any, mean: Any, share: Any, weight: Any, count: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            target, high, low, mean, share, weight, count = arguments
            share, weight = repeated(builder, share), repeated(builder, weight)

            def combine(high: Any, low: Any, mean: Any) -> Any:
                part = builder.fmul(builder.fsub(high, low), share)
                return builder.fadd(part, builder.fmul(mean, weight))

            loop(builder, target, [high, low, mean], count, combine)
            return context.get_dummy_value()

        addresses = (types.uintp,) * 4
        return types.void(*addresses, types.float32, types.float32, types.intp), generate

    @intrinsic
    def stream_end(context: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.void(), generate

    return SimpleNamespace(stream_copy=stream_copy, stream_mean=stream_mean, stream_end=stream_end)
