"""How compiled functions hand tables to each other: one pointer to where all of them are.

A named tuple of arrays would be passed by value: some 250 words a call, which takes longer than what most functions
do, and which the compiler takes long to sort out.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    lower_getattr_generic,
    models,
    register_model,
    unbox,
)
from numba.np.numpy_support import from_dtype

from helix_df.simulator.kernel.memory import Array

WORDS = 7
"""Of an array as numba sees it: owner, parent, items, bytes an item, address, and shape and stride of one dimension."""


class TablesType(types.Type):  # type: ignore[misc]
    """Named arrays of one dimension, side by side in memory."""

    def __init__(self, fields: tuple[tuple[str, types.Type], ...]) -> None:
        self.fields = fields
        super().__init__(name=f"Tables({', '.join(f'{name}: {kind}' for name, kind in fields)})")


@cache
def _kind(items: np.dtype[Any]) -> types.Type:
    return types.Array(from_dtype(items), 1, "C", aligned=True)


class Tables:
    """Arrays by name, for a compiled function; they must not be replaced while it is used."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self.arrays = arrays
        words = [[0, 0, len(one), one.itemsize, one.ctypes.data, len(one), one.itemsize] for one in arrays.values()]
        self._words = np.array(words, dtype=np.intp)
        self.address = int(self._words.ctypes.data)
        self._numba_type_ = TablesType(tuple((name, _kind(one.dtype)) for name, one in arrays.items()))


@register_model(TablesType)
class _TablesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: TablesType) -> None:
        super().__init__(manager, kind, ir.IntType(8).as_pointer())


@infer_getattr
class _TablesAttributes(AttributeTemplate):  # type: ignore[misc]
    key = TablesType

    def generic_resolve(self, kind: TablesType, name: str) -> types.Type | None:
        return dict(kind.fields).get(name)


@lower_getattr_generic(TablesType)  # type: ignore[untyped-decorator]
def _table(context: Any, builder: Any, kind: TablesType, value: Any, name: str) -> Any:
    at = [field for field, _ in kind.fields].index(name)
    array = context.get_value_type(dict(kind.fields)[name])
    start = cgutils.pointer_add(builder, value, at * WORDS * np.intp().itemsize, array.as_pointer())
    return builder.load(start)


@unbox(TablesType)  # type: ignore[untyped-decorator]
def _unbox(_: TablesType, tables: Any, c: Any) -> NativeValue:
    address = c.pyapi.object_getattr_string(tables, "address")
    number = c.pyapi.long_as_voidptr(address)
    c.pyapi.decref(address)
    return NativeValue(number)
