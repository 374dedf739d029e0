"""A stand-in for one CUDA GPU, on PyTorch's CPU build: it checks that each op obeys the rules of CUDA.

Tensors on "cuda:0" are wrapped CPU tensors, so that all results have correct values, or wrapped meta tensors, which
have shapes but no values and may have any size. An installed stand-in (`installing.installed`) handles every op:

- Tensors of the host and of the GPU do not mix, 0-d ones apart (`ops`).
- Whatever makes the host wait is counted with the line of the program; while a graph is recorded it is an error, and so
  is every copy from the host (`transfers`).
- Recorded graphs compute nothing while they are recorded, are replayed on the same memory, and leave garbage in the
  memory that they share (`graphs`).
- An op that touches memory while another stream may still work on it is an error (`streams`).
- Memory is counted, and may have a limit (`gpu`).
- Sums over processes go beside all else on a stream of their own, recorded or not (`collectives`).

The stand-in knows only the rules that its authors knew, and it cannot measure time; benchmarks/gpu_model.py estimates
the time on a real GPU.
"""

from tests.standin.gpu import Gpu
from tests.standin.installing import installed

__all__ = ['Gpu', 'installed']
