"""A stand-in for one CUDA GPU, on PyTorch's CPU build: it holds programs to the rules of CUDA, one op at a time.

Tensors on "cuda:0" are wrapped CPU tensors, so that all results are the real numbers, or wrapped meta tensors, which
have shapes only and thus any size. While a stand-in is installed (`installing.installed`), PyTorch hands it every op:

- Tensors of the host and of the GPU do not mix, 0-d ones apart (`ops`).
- Whatever makes the host wait is counted with the line of the program; while a graph is recorded it is an error, and so
  is every copy from the host (`transfers`).
- Recorded graphs compute nothing while they are recorded, are replayed on the same memory, and leave garbage in the
  memory that they share (`graphs`).
- An op that touches memory while another stream may still work on it is an error (`streams`).
- Memory is counted, and may have a limit (`gpu`).
- Sums over processes go beside all else on a stream of their own, recorded or not (`collectives`).

It knows the rules that its authors knew and measures no time. What a real GPU takes is estimated by
benchmarks/gpu_model.py.
"""

from tests.standin.gpu import Gpu
from tests.standin.installing import installed

__all__ = ['Gpu', 'installed']
