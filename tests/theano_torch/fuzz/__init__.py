"""Random programs of Theano on which the engines are compared.

`recipes` describes a program as data, so that it can be printed, cut down and built again. `graphs`, `convolutions` and
`scans` make random ones from seeds. `compare` runs a recipe on several engines, and `shrink` finds the smallest part of
it that still differs. Tests run some seeds of each kind; `benchmarks/fuzz_engine.py` runs as many as are asked for.
"""
