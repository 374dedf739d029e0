"""Fewer and larger kernels on a GPU: what a program does to tensors, with its element-wise work in kernels of our own.

One module does one step of the way: `recording` notes the calls of PyTorch in a run of a program, `expressions` says
what an element-wise call computes, `grouping` finds the calls that one kernel can do, `source` writes that kernel in
Triton, `kernels` loads and launches it, and `program` runs all in place of the program. Nothing here knows Theano.
"""
