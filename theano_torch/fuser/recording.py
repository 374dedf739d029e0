"""Record every call of a PyTorch op while a program runs, with the memory that it reads and writes.

Views and in-place writes are resolved here: each block of memory has a number and a version, which increases with each
write, and an operand of a call is a view of one version of a block.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten

# These ops read only the shape of a tensor.
LIKE = {aten.empty_like.default, aten.new_empty.default, aten.new_empty_strided.default}
WAITING = {'aten::_local_scalar_dense', 'aten::nonzero', 'aten::equal', 'aten::is_nonzero'}


class CannotFuse(Exception):
    """The recorded calls are not a complete description of a program, or their graph is not supported."""


class Version(NamedTuple):
    """The content of a block of memory between two writes."""

    memory: int
    number: int


class Operand(NamedTuple):
    """A tensor as a view of a version of a block of memory; strides and offset count elements."""

    version: Version
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    def is_whole(self, size: int) -> bool:
        """Whether the view contains each of the `size` elements of its memory exactly once."""
        expected = 1
        for step, length in sorted(zip(self.strides, self.shape, strict=True)):
            if length != 1:
                if step != expected:
                    return False
                expected *= length
        return self.offset == 0 and math.prod(self.shape) == size


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a PyTorch op.

    Attributes
    ----------
    function : torch.ops.OpOverload
    arguments, options
        Positional and keyword arguments, with an `Operand` in place of each tensor.
    reads : list of Operand
    results
        The result, with an `Operand` in place of each tensor. Arguments that were written have their new version.
    written : dict
        Version before -> version after, for each block of memory that the call writes to.
    """

    function: Any
    arguments: tuple
    options: dict
    reads: list[Operand]
    results: Any
    written: dict[Version, Version]

    @property
    def outputs(self) -> list[Operand]:
        """The tensors among the results."""
        return list(leaves(self.results, Operand))

    @property
    def made(self) -> set[Version]:
        """The versions that the call creates."""
        before = {operand.version for operand in self.reads}
        return {operand.version for operand in self.outputs} - before | set(self.written.values())


def leaves(tree: Any, kind: type) -> Iterator[Any]:
    """Yield the objects of the class `kind` in nested lists and tuples."""
    if isinstance(tree, kind):
        yield tree
    elif isinstance(tree, list | tuple):
        for part in tree:
            yield from leaves(part, kind)


def mapped(tree: Any, kind: type, function: Callable) -> Any:
    """Apply `function` to each object of the class `kind` in nested lists and tuples."""
    if isinstance(tree, kind):
        return function(tree)
    if isinstance(tree, list | tuple):
        return type(tree)([mapped(part, kind, function) for part in tree])
    return tree


class Recorder(TorchDispatchMode):
    """A context manager that records all calls of PyTorch ops in `calls`, without changing their effect.

    Parameters
    ----------
    inputs : list
        Inputs of the program that runs inside. The memory of a tensor gets its position in this list as its number.

    Attributes
    ----------
    sizes : dict
        Number of a block of memory that the program made -> number of its elements.
    constants : dict
        Number of a block of memory that existed before and is not an input -> a tensor in it.
    problem : str or None
        Why the recorded calls are incomplete.
    waits : bool
        Whether the host waited for a value.
    """

    def __init__(self, inputs: Sequence) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.sizes: dict[int, int] = {}
        self.constants: dict[int, torch.Tensor] = {}
        self.problem: str | None = None
        self.waits = False
        self.inputs = dict(enumerate(inputs))       # Keep them alive, so that no new tensor gets their addresses.
        self.memories = WeakIdKeyDictionary()       # Tensor -> number of its memory.
        self.versions: dict[int, int] = {}          # Number of memory -> its current version.
        self.addresses: dict[int, int] = {}         # Address of memory that existed before -> its number.
        self.next = len(inputs)
        for index, value in self.inputs.items():
            if isinstance(value, torch.Tensor):
                self.memories[value] = self.addresses.setdefault(address_of(value) or -index - 1, index)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        options = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), 'CompositeImplicitAutograd'):
            with self:      # A composite op only calls other ops, which are recorded instead.
                return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **options)
        if func._schema.name in WAITING:
            self.waits = True
            self.problem = f'{func} copies a value to the host'
        tensors = list(leaves((args, list(options.values())), torch.Tensor))
        reads = [self.operand(tensor) for tensor in tensors]
        arguments, named = self.described(args), {key: self.described(value) for key, value in options.items()}
        targets = list(written_by(func, args, options))
        before = {self.version(tensor) for tensor in targets}
        results = func(*args, **options)
        for version in before:
            self.versions[version.memory] = version.number + 1
        known = {address_of(tensor): self.memories[tensor] for tensor in tensors if tensor.numel()}
        for tensor in leaves(results, torch.Tensor):
            if tensor not in self.memories:
                self.memories[tensor] = known.get(address_of(tensor), self.next)
                if self.memories[tensor] == self.next:
                    self.sizes[self.next] = tensor.untyped_storage().nbytes() // max(tensor.element_size(), 1)
                    self.next += 1
        call = Call(func, arguments, named, reads, self.described(results),
                    {version: Version(version.memory, version.number + 1) for version in before})
        if func in LIKE:
            result = call.outputs[0]
            call = Call(aten.empty_strided.default, (result.shape, result.strides),
                        {'dtype': result.dtype, 'device': results.device}, [], result, {})
        if any(operand.dtype != other.dtype for operand in call.outputs for other in reads
               if operand.version.memory == other.version.memory):
            self.problem = f'{func} views memory as another type'
        if call.made or call.written:       # Otherwise it is a view.
            self.calls.append(call)
        return results

    def version(self, tensor: torch.Tensor) -> Version:
        """The current version of a tensor's memory."""
        if tensor not in self.memories:
            number = self.addresses.setdefault(address_of(tensor) or -self.next - 1, self.next)
            if number == self.next:
                self.constants[number] = tensor
                self.next += 1
            self.memories[tensor] = number
        number = self.memories[tensor]
        return Version(number, self.versions.get(number, 0))

    def operand(self, tensor: torch.Tensor) -> Operand:
        """A tensor as a view of the current version of its memory."""
        return Operand(self.version(tensor), tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()),
                       tensor.dtype)

    def described(self, tree: Any) -> Any:
        """Replace tensors by operands in nested lists and tuples."""
        return mapped(tree, torch.Tensor, self.operand)


def address_of(tensor: torch.Tensor) -> int:
    """The address of a tensor's memory; 0 for an empty tensor."""
    return tensor.untyped_storage().data_ptr() if tensor.numel() else 0


def written_by(func: Any, args: Sequence, kwargs: dict) -> Iterator[torch.Tensor]:
    """Yield the tensor arguments that a call writes to."""
    if not func._schema.is_mutable:
        return
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            yield from leaves(value, torch.Tensor)
