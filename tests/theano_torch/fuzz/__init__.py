"""Random Theano programs on which the engines are compared.

`recipes` describes a program as data, so that it can be printed, shortened and rebuilt. `graphs`, `convolutions` and
`scans` make random recipes from seeds. `compare` runs a recipe on several engines, and `shrink` finds a small part of
it on which they still differ. Tests run some seeds of each kind; `benchmarks/fuzz_engine.py` runs any number.
"""
