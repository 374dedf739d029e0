"""theano_torch.linker: the order of the nodes."""

from theano_torch.linker import starts_first

import pytest
import theano
import theano.tensor as T


class Op(theano.Op):
    """Takes some vectors; does what its name says."""

    __props__ = ('name', 'starts', 'destroys')

    def __init__(self, name, starts=False, destroys=False):
        self.name, self.starts, self.destroys = name, starts, destroys
        if destroys:
            self.destroy_map = {0: [0]}

    def make_node(self, *inputs):
        return theano.Apply(self, list(inputs), [T.dvector()])


def order_of(*nodes):
    return ''.join(node.op.name for node in starts_first([var.owner for var in nodes]))


@pytest.mark.parametrize('destroyer, wanted', [('', 'acsbteg'), ('c', 'abcestg'), ('b', 'abcestg'), ('g', 'acsbteg'),
                                               ('e', 'abcestg')])
def test_what_starts_something_comes_before_what_it_does_not_need(destroyer, wanted):
    """s needs a and c, t needs s and b; nothing passes, or is passed by, a node that destroys its inputs."""
    x = T.dvector()
    a = Op('a', destroys=destroyer == 'a')(x)
    b = Op('b', destroys=destroyer == 'b')(a)
    c = Op('c', destroys=destroyer == 'c')(a)
    e = Op('e', destroys=destroyer == 'e')(b)
    s = Op('s', starts=True)(c)
    t = Op('t', starts=True)(s, b)
    g = Op('g', destroys=destroyer == 'g')(e, s, t)
    assert order_of(a, b, c, e, s, t, g) == wanted
