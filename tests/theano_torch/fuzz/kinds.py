"""The kinds of random programs by name."""

from collections.abc import Callable
from typing import NamedTuple

from tests.theano_torch.fuzz import convolutions, graphs, scans
from tests.theano_torch.fuzz.compare import Comparison
from tests.theano_torch.fuzz.recipes import Recipe


class Kind(NamedTuple):
    """`make` makes a program from a seed; for `reference_of` see `compare.Comparison`."""

    make: Callable[[int], Recipe]
    reference_of: Callable[[Recipe], Recipe]

    def comparison(self, reference: str = 'python', compiler: str = '') -> Comparison:
        return Comparison(reference, compiler, self.reference_of)


KINDS = {'graphs': Kind(graphs.make, lambda recipe: recipe),
         'convolutions': Kind(convolutions.make, convolutions.by_rule),
         'scans': Kind(scans.make, lambda recipe: recipe)}
