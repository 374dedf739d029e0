"""Fuse the element-wise PyTorch calls of a program into fewer and larger Triton kernels for a GPU.

`recording` records the calls of a run, `expressions` and `elements` describe those that kernels can compute, `grouping`
finds calls that one kernel can compute, `savings` reduces the memory traffic between kernels, `source` writes a kernel
in Triton, `kernels` compiles and launches it, and `program` replaces the original program. Nothing here knows Theano.
"""
