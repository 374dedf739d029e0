"""Element types for which torch lacks kernels or has wrong ones, so that nodes must run as NumPy code.

- uint16, uint32, uint64: torch can do little more than move their elements. For element-wise ops, the engine computes
  in int64 (`convert.computing_dtype`), which is right for uint64 only if numbers above 2^63 may wrap around.
- complex numbers: torch has arithmetic but no order; NumPy compares real parts first.
- products of booleans.
"""

import re
from typing import Any

from theano import scalar
from theano.compile.ops import DeepCopyOp, OutputGuard, Rebroadcast, SpecifyShape, ViewOp
from theano.gradient import ZeroGrad
from theano.ifelse import IfElse
from theano.tensor import basic, blas, elemwise, opt, subtensor
from theano.tensor.signal import pool

WIDE_UNSIGNED = {'uint16', 'uint32', 'uint64'}
COMPLEX = {'complex64', 'complex128'}

# Ops that only move elements, some of them from the host.
MOVING = (basic.Reshape, basic.Flatten, basic.Alloc, basic.AllocEmpty, basic.ARange, basic.Eye, basic.Join, basic.Split,
          basic.TensorFromScalar, elemwise.DimShuffle, subtensor.Subtensor, subtensor.AdvancedSubtensor1,
          subtensor.BaseAdvancedSubtensor, opt.Assert, opt.MakeVector, Rebroadcast, ViewOp, DeepCopyOp, OutputGuard,
          SpecifyShape, ZeroGrad, IfElse)
WRAPPING = (scalar.Add, scalar.Sub, scalar.Mul, scalar.Identity, scalar.Cast, scalar.Second, scalar.Switch, scalar.EQ,
            scalar.NEQ, scalar.AND, scalar.OR, scalar.XOR, scalar.Invert)
OF_COMPLEX = (scalar.Add, scalar.Sub, scalar.Mul, scalar.TrueDiv, scalar.Neg, scalar.Sqr, scalar.Exp, scalar.Identity,
              scalar.Cast, scalar.Second, scalar.Switch, scalar.EQ, scalar.NEQ, scalar.Abs, scalar.Real, scalar.Imag,
              scalar.Conj, scalar.Angle, scalar.Complex, scalar.ComplexFromPolar)
WRITING = (subtensor.IncSubtensor, subtensor.AdvancedIncSubtensor1, subtensor.BaseAdvancedIncSubtensor)
PRODUCTS = (basic.Dot, blas.BatchedDot)


def are_missing(node: Any) -> bool:
    """Whether torch cannot compute `node` with the types of its variables."""
    types = {getattr(var.type, 'dtype', None) for var in node.inputs + node.outputs}
    if types & WIDE_UNSIGNED and not is_right_for_wide(node.op, 'uint64' in types):
        return True
    if types & COMPLEX and not is_right_for_complex(node.op):
        return True
    return isinstance(node.op, PRODUCTS) and node.outputs[0].type.dtype == 'bool'


def is_right_for_wide(op: Any, is_uint64: bool) -> bool:
    """Whether torch computes `op` correctly for the wide unsigned types, including uint64 if `is_uint64`."""
    if isinstance(op, elemwise.Elemwise | elemwise.CAReduce):
        return not is_uint64 or isinstance(op.scalar_op, WRAPPING)
    if isinstance(op, pool.Pool):
        return not is_uint64
    return isinstance(op, (*MOVING, *WRITING))


def is_right_for_complex(op: Any) -> bool:
    """Whether torch computes `op` correctly for complex numbers."""
    if isinstance(op, elemwise.Elemwise):
        return isinstance(op.scalar_op, OF_COMPLEX)
    if isinstance(op, elemwise.CAReduce):
        return isinstance(op.scalar_op, scalar.Add | scalar.Mul)
    return isinstance(op, (*MOVING, *WRITING, *PRODUCTS))


def is_missing(error: Exception) -> bool:
    """Whether `error` means that torch has no kernel for an element type."""
    return isinstance(error, NotImplementedError) or type(error) in (RuntimeError, TypeError) and bool(
        re.search(r'not implemented|not supported|(does|do) not support|unsupported', str(error)))
