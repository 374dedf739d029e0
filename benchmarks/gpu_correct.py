"""Checks for `gpu_check.py`: a GPU gives the results of the CPU, repeats them exactly, and keeps memory constant.

Each check is a function of a `Subject` that returns (number or text, whether the check has passed).
"""

import argparse
import contextlib
import gc
from typing import NamedTuple

import train_step

LOD = 0.5                   # A fade-in, which executes most code.
MINIBATCH = 4
ADAM_EPSILON = 1e-2         # A small epsilon would let the sign of a tiny gradient determine a whole step.
# Relative to the largest value. They allow for another order of summation, and for inputs rounded to 11 or 8 bits.
# Changes of parameters differ most, because Adam divides small gradients by small numbers: on the stand-in by 7e-4 in
# float32 and 0.15 in bfloat16.
TOLERANCES = {'float32': 1e-2, 'tf32': 0.1, 'bfloat16': 0.3, 'float16': 0.1}
SPARE_BYTES = 2 ** 21       # Free memory in the check of running out of memory.
TOO_MANY = 8                # Size of its minibatch, as a multiple of SPARE_BYTES.


class Outcome(NamedTuple):
    """The results of some steps."""

    images: list            # Images of G and scores of D before the first step.
    outputs: list           # D's outputs in each step, in one array.
    changes: list           # Changes of the parameters by all steps.
    graphs: int             # Number of recorded programs.


class Subject:
    """Small networks of the paper, trained for some steps in several modes.

    Parameters
    ----------
    device : str
        For `theano_env.configure`.
    resolution, fmap_base, fmap_max : int
    long_steps : int
        Number of steps that must not change the memory use.
    """

    def __init__(self, device, resolution, fmap_base, fmap_max, long_steps):
        self.device, self.long_steps, self.done = device, long_steps, {}
        self.args = argparse.Namespace(engine='torch', resolution=resolution, channels=3, fmap_base=fmap_base,
                                       fmap_max=fmap_max, minibatch=MINIBATCH)
        self.lod = LOD if resolution > 4 else 0.0

    def trainer(self, device, precision, deterministic=False, captured=True):
        """(Trainer, its functions), with the same initial weights in each call."""
        import theano_torch

        import lasagne
        import numpy as np
        import theano

        import theano_env
        from nets import updates
        lasagne.random.set_rng(np.random.RandomState(1))
        trainer = train_step.Trainer(self.args, device, precision)
        environment = theano_env.configure('torch', {
            'floatX': 'float32', 'device': device,
            'dnn.conv.algo_bwd_filter': 'deterministic' if deterministic else 'none'}, precision=precision)
        theano.config.mode = theano_torch.mode(environment.device, precision, captured)
        exponents = [updates.loss_scaling_exponent() if precision == 'float16' else None for _ in 'DG']
        return trainer, trainer.functions(self.lod, exponents, ADAM_EPSILON)

    def inputs(self, random):
        """Random arguments of D's and G's functions."""
        import numpy as np
        size = self.args.resolution
        latent_size = min(self.args.fmap_max, self.args.fmap_base)
        nothing = np.zeros((MINIBATCH, 0), np.float32)
        reals = random.randint(0, 256, (MINIBATCH, 3, size, size)).astype(np.uint8)
        latents = random.randn(2, MINIBATCH, latent_size).astype(np.float32)
        return (reals, nothing, latents[0], nothing), (latents[1], nothing)

    def outcome(self, device, precision, deterministic=False, captured=True, repetition=0):
        """The `Outcome` of some steps. It is cached; another `repetition` computes it again."""
        from theano_torch import capture

        import numpy as np
        key = device, precision, deterministic, captured, repetition
        if key not in self.done:
            trainer, functions = self.trainer(device, precision, deterministic, captured)
            random = np.random.RandomState(2)
            for_d, for_g = self.inputs(random)
            images = [trainer.G.run(*for_g, minibatch_size=MINIBATCH)]
            images += trainer.D.run(images[0], minibatch_size=MINIBATCH, return_as_list=True)
            nets = trainer.G, trainer.D, trainer.Gs
            before = [var.get_value() for net in nets for var in net.trainables.values()]
            outputs = []
            for _ in range(capture.WARM_UP_CALLS + 3):      # First call, warm-up, recording, one replay.
                outputs += functions.train_d(*for_d)
                functions.train_g(*for_g)
                for_d, for_g = self.inputs(random)
            after = [var.get_value() for net in nets for var in net.trainables.values()]
            programs = [program for function in functions[:2] for kept in function.fn.programs.values()
                        for program in kept]
            graphs = sum(getattr(program, 'graph', None) is not None for program in programs)
            self.done[key] = Outcome(images, [np.stack([value.ravel().mean() for value in outputs])],
                                     [new - old for new, old in zip(after, before, strict=True)], graphs)
            gc.collect()
        return self.done[key]


def difference(ours, theirs):
    """The largest difference between two lists of arrays, relative to the largest value in the second list."""
    import numpy as np
    scale = max(float(np.abs(value).max()) for value in theirs if value.size)
    worst = max(float(np.abs(mine - other).max()) for mine, other in zip(ours, theirs, strict=True) if other.size)
    return worst / max(scale, 1e-30)


def networks(subject, precision):
    """Images and scores equal those of the CPU."""
    found = difference(subject.outcome(subject.device, precision).images, subject.outcome('cpu', 'float32').images)
    return found, found <= TOLERANCES[precision]


def steps(subject, precision):
    """Losses and changes of parameters equal those of the CPU; returns the larger difference."""
    ours, theirs = subject.outcome(subject.device, precision), subject.outcome('cpu', 'float32')
    found = difference(ours.outputs, theirs.outputs)
    if precision != 'float16':      # With float16, loss scaling skips steps.
        found = max(found, difference(ours.changes, theirs.changes))
    return found, found <= TOLERANCES[precision]


def recorded_and_fused(subject, precision):
    """Recorded steps with our kernels equal single steps of PyTorch."""
    ours, theirs = (subject.outcome(subject.device, precision, captured=captured) for captured in (True, False))
    found = max(difference(ours.outputs, theirs.outputs), difference(ours.changes, theirs.changes))
    return found, found <= TOLERANCES[precision] and (ours.graphs, theirs.graphs) == (2, 0)


def same_bits(ours, theirs):
    """(number of differing arrays as text, whether there are none)"""
    pairs = [(mine.tobytes(), other.tobytes()) for kind in ('images', 'outputs', 'changes')
             for mine, other in zip(getattr(ours, kind), getattr(theirs, kind), strict=True)]
    different = sum(mine != other for mine, other in pairs)
    return f'{different} of {len(pairs)} arrays differ', different == 0


def recorded_bits(subject, precision):
    """With deterministic algorithms, recorded steps have the same bits as single ones."""
    ours = subject.outcome(subject.device, precision, deterministic=True)
    found, is_same = same_bits(ours, subject.outcome(subject.device, precision, deterministic=True, captured=False))
    return found, is_same and ours.graphs == 2


def two_runs(subject, precision):
    """With deterministic algorithms, two runs have the same bits."""
    return same_bits(*[subject.outcome(subject.device, precision, deterministic=True, repetition=number)
                       for number in range(2)])


def constant_memory(subject, precision):
    """Many steps do not change the memory use of tensors."""
    from theano_torch import capture

    import numpy as np
    import torch
    trainer, functions = subject.trainer(subject.device, precision)
    random, sizes = np.random.RandomState(2), []
    for count in (capture.WARM_UP_CALLS + 3, subject.long_steps):
        for _ in range(count):
            for function, inputs in zip((functions.train_d, functions.train_g), subject.inputs(random), strict=True):
                function(*inputs)
            trainer.D.toplevel_params['cur_lod'].set_value(np.float32(subject.lod))
        gc.collect()
        torch.cuda.synchronize()
        sizes.append(torch.cuda.memory_allocated())
    return f'{sizes[1] - sizes[0]:+d} bytes of {sizes[0]}', sizes[0] == sizes[1]


@contextlib.contextmanager
def no_more_memory():
    """Context in which the GPU has only `SPARE_BYTES` of free memory."""
    import torch
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties('cuda').total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + SPARE_BYTES) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def out_of_memory(subject, precision):
    """Running out of memory raises a one-line error."""
    import theano_torch

    import numpy as np
    _trainer, functions = subject.trainer(subject.device, precision)
    for_d, _ = subject.inputs(np.random.RandomState(2))
    repetitions = -(-TOO_MANY * SPARE_BYTES // for_d[0].nbytes)
    with no_more_memory():
        try:
            functions.train_d(*[np.repeat(value, repetitions, axis=0) for value in for_d])
        except theano_torch.OutOfMemory as error:
            return str(error), '\n' not in str(error)
    return 'there was enough memory', False


# (name, function, whether to run it in each precision or only in float32), the most important checks first.
CHECKS = (
    ('images and scores as on the CPU', networks, True),
    ('losses and changes of parameters as on the CPU', steps, True),
    ('recorded and fused steps as single ones', recorded_and_fused, True),
    ('deterministic: recorded steps with the bits of single ones', recorded_bits, False),
    ('deterministic: two runs with the same bits', two_runs, False),
    ('memory constant', constant_memory, False),
    ('out of memory in one line', out_of_memory, False),
)
