"""Run the recorded calls of a program, with fused kernels in place of those that kernels can compute."""

from collections.abc import Sequence
from typing import Any

from theano_torch.fuser.elements import element_of
from theano_torch.fuser.expressions import expression_of
from theano_torch.fuser.grouping import Group, Grouping, dependencies
from theano_torch.fuser.kernels import Kernel
from theano_torch.fuser.recording import Call, CannotFuse, Operand, Recorder, Version, leaves, mapped
from theano_torch.fuser.savings import compute_again, read_rounded
from theano_torch.fuser.source import Sum, source_of

import torch

aten = torch.ops.aten

Memory = dict[Version, torch.Tensor]


class Step:
    """One step of a fused program: a PyTorch call, or a kernel that replaces several.

    Attributes
    ----------
    reads, makes : set of Version
    emptied : list of Version
        Versions that no later step needs.
    """

    emptied: Sequence[Version] = ()
    reads: set[Version]
    makes: set[Version]

    def run(self, memory: Memory) -> None:
        """Compute the step; `memory` maps versions to tensors."""
        raise NotImplementedError


class CallStep(Step):
    """A recorded PyTorch call."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.reads, self.makes = {operand.version for operand in call.reads}, call.made

    def run(self, memory: Memory) -> None:
        call = self.call

        def value(operand: Operand) -> torch.Tensor:
            return view(memory[operand.version], operand)
        results = call.function(*mapped(call.arguments, Operand, value),
                                **{key: mapped(option, Operand, value) for key, option in call.options.items()})
        for old, new in call.written.items():
            memory[new] = memory[old]
        made = call.made
        for operand, tensor in zip(leaves(call.results, Operand), leaves(results, torch.Tensor), strict=True):
            if operand.version in made and operand.version not in memory:
                memory[operand.version] = tensor


class KernelStep(Step):
    """A fused kernel.

    Attributes
    ----------
    taken : dict
        Index of an output -> index of the input whose memory it reuses.
    """

    def __init__(self, group: Group, wanted: set[Version], folder: str) -> None:
        source = source_of(group, wanted)
        self.kernel = Kernel(source, folder)
        self.reads = {operand.version for operand in source.inputs}
        self.makes = {operand.version for operand in source.outputs} | \
            {summed.element.version for summed in source.sums}
        self.taken: dict[int, int] = {}

    def take_memory(self, owned: set[Version]) -> None:
        """Let outputs reuse the memory of inputs that no later step needs.

        `owned` are the versions that the program made and that fill their memory; only these are reused.
        """
        source = self.kernel.source
        for number, candidates in source.places.items():
            free = [index for index in candidates if index not in self.taken.values()
                    and source.inputs[index].version in owned.intersection(self.emptied)]
            if free:
                self.taken[number] = free[0]

    def run(self, memory: Memory) -> None:
        source = self.kernel.source
        inputs = [beginning(memory[operand.version]) for operand in source.inputs]
        like = inputs[0]
        outputs = [inputs[self.taken[number]] if number in self.taken
                   else torch.empty_strided(*dense(operand), dtype=operand.dtype, device=like.device)
                   for number, operand in enumerate(source.outputs)]
        parts = [torch.empty(source.num_programs, summed.width, dtype=summed.element.expression.compute,
                             device=like.device) for summed in source.sums]
        torch.ops.theano_torch.launch(self.kernel.number, inputs, [*outputs, *parts])
        for operand, tensor in zip(source.outputs, outputs, strict=True):
            memory[operand.version] = tensor
        for summed, part in zip(source.sums, parts, strict=True):
            memory[summed.element.version] = total(summed, part)


def total(summed: Sum, parts: torch.Tensor) -> torch.Tensor:
    """Add up the partial sums that the programs of a kernel have written."""
    dtype = summed.element.output.dtype
    result = parts if len(parts) == 1 else torch.sum(parts, 0)
    return result.to(dtype)


def dense(operand: Operand) -> tuple[list[int], list[int]]:
    """Shape and strides of a tensor that has each element of `operand` exactly once."""
    kept = [axis for axis, size in enumerate(operand.shape) if size > 1]
    return [operand.shape[axis] for axis in kept], [operand.strides[axis] for axis in kept]


def beginning(tensor: torch.Tensor) -> torch.Tensor:
    """View a tensor with a storage offset of 0."""
    if tensor.storage_offset() == 0:
        return tensor
    return tensor.as_strided(tensor.shape, tensor.stride(), 0)


def view(tensor: torch.Tensor, operand: Operand) -> torch.Tensor:
    """View the memory of `tensor` as `operand` describes."""
    if tuple(tensor.shape) == operand.shape and tensor.stride() == operand.strides and \
            tensor.storage_offset() == operand.offset:
        return tensor
    return tensor.as_strided(operand.shape, operand.strides, operand.offset)


class FusedProgram:
    """A fused copy of a recorded program. Call it with inputs of the recorded shapes.

    Parameters
    ----------
    recorder : Recorder
    results : list
        The results of the recorded run.
    folder : str
        Folder for the source files of kernels.

    Raises
    ------
    CannotFuse
        The recorded calls are not a complete description of the program.
    """

    def __init__(self, recorder: Recorder, results: Sequence, folder: str) -> None:
        if recorder.problem is not None:
            raise CannotFuse(recorder.problem)
        calls, self.results = without_repetitions(recorder.calls, recorder.described(list(results)))
        before = dependencies(calls)
        elements = [element_of(index, call, recorder.sizes) for index, call in enumerate(calls)]
        grouping = Grouping(before, elements)
        needed = {operand.version for operand in leaves(self.results, Operand)}
        readers = {version: {grouping.group_of[index] for index in indices}
                   for version, indices in readers_of(calls).items()}
        changed = read_rounded(grouping, readers, needed) | compute_again(grouping, readers, needed, calls)
        self.steps: list[Step] = []
        for name in grouping.order():
            group = grouping.groups.get(name)
            if group is None or len(group.elements) == 1 and name not in changed:
                self.steps.append(CallStep(calls[grouping.members[name][0]]))
                continue
            wanted = {version for version in group.made if version in needed or readers.get(version, set()) - {name}}
            self.steps.append(KernelStep(group, wanted - group.borrowed, folder))
        self.constants = {Version(number, 0): tensor for number, tensor in recorder.constants.items()}
        self.inputs = {index: recorder.memories[value] for index, value in recorder.inputs.items()
                       if isinstance(value, torch.Tensor)}
        self.empty(needed, {operand.version for call in calls for operand in call.outputs
                            if operand.version in call.made and operand.is_whole(
                                recorder.sizes.get(operand.version.memory, 0))})

    def empty(self, needed: set[Version], owned: set[Version]) -> None:
        """Set for each step the versions that no later step needs. For `owned` see `KernelStep.take_memory`."""
        kept = needed | set(self.constants)
        last: dict[Version, Step] = {}
        for step in self.steps:
            for version in step.reads | step.makes:
                last[version] = step
        for version, step in last.items():
            if version not in kept:
                step.emptied = [*step.emptied, version]
        for step in self.steps:
            if isinstance(step, KernelStep):
                step.take_memory(owned)

    def prepare(self, like: torch.Tensor) -> None:
        """Compile all kernels for the device of a tensor."""
        for step in self.steps:
            if isinstance(step, KernelStep):
                torch.ops.theano_torch.prepare(step.kernel.number, like)

    def __call__(self, inputs: Sequence) -> list:
        memory: Memory = dict(self.constants)
        for index, number in self.inputs.items():
            memory.setdefault(Version(number, 0), inputs[index])
        for step in self.steps:
            step.run(memory)
            for version in step.emptied:
                memory.pop(version, None)
        return mapped(self.results, Operand, lambda operand: view(memory[operand.version], operand))


def readers_of(calls: Sequence[Call]) -> dict[Version, set[int]]:
    """{version: indices of the calls that read it}"""
    readers: dict[Version, set[int]] = {}
    for index, call in enumerate(calls):
        for operand in call.reads:
            readers.setdefault(operand.version, set()).add(index)
    return readers


def without_repetitions(calls: Sequence[Call], results: Any) -> tuple[list[Call], Any]:
    """Remove element-wise calls that repeat an earlier one; return the remaining calls and the adapted results."""
    rewritten = {version.memory for call in calls for version in call.written}
    same: dict[int, int] = {}
    known: dict[Any, Operand] = {}
    kept = []

    def replaced(operand: Operand) -> Operand:
        number = same.get(operand.version.memory)
        return operand if number is None else operand._replace(version=Version(number, operand.version.number))
    for call in calls:
        call = Call(call.function, mapped(call.arguments, Operand, replaced),
                    {key: mapped(value, Operand, replaced) for key, value in call.options.items()},
                    [replaced(operand) for operand in call.reads], call.results, call.written)
        if len(call.outputs) == 1 and not call.written and call.outputs[0].version.memory not in rewritten and (
                call.function.overloadpacket is aten.flip or expression_of(call) is not None):
            key = repr((call.function, call.arguments, call.options))
            output = call.outputs[0]
            other = known.setdefault(key, output)
            if other is not output and other[1:] == output[1:]:
                same[output.version.memory] = other.version.memory
                continue
        kept.append(call)
    return kept, mapped(results, Operand, replaced)
