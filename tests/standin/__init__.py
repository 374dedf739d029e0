"""A stand-in for one CUDA GPU, on PyTorch's CPU build: it checks that each op obeys the rules of CUDA.

Tensors on "cuda:0" are wrapped CPU tensors, so that all results have correct values, or wrapped meta tensors, which
have shapes but no values and may have any size. An installed stand-in (`installing.installed`) handles every op:

- Ops must not mix tensors of the host and the GPU, except for 0-d tensors of the host (`ops`).
- Ops that make the host wait are counted by line of the program. They are errors while a graph is being recorded, and
  so is every copy from the host (`transfers`).
- While a graph is being recorded, it computes nothing; it is replayed on the same memory, and leaves garbage in memory
  that it shares with other graphs (`graphs`).
- An op must not access memory that another stream may still be using (`streams`).
- Memory is counted, and may be limited (`gpu`).

The stand-in knows only the rules that its authors knew, and it cannot measure time; benchmarks/gpu_model.py estimates
the time on a real GPU.
"""

from tests.standin.gpu import Gpu
from tests.standin.installing import installed

__all__ = ['Gpu', 'installed']
