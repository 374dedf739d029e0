"""Networks out of files: our own pickles, and those of the 2017 Theano and the 2018 TensorFlow release.

``python legacy.py PUBLISHED.pkl OURS.pkl`` converts a file. Nothing that is stored in a pickle is executed:
`safe_pickle` reads plain data, and our build functions recreate the networks; their outputs match the original
release. This is the only module that knows the old formats.

======= ==================== ===========================================================================================
release class                state
======= ==================== ===========================================================================================
2017    network.Network      build_func_spec {func: name, arguments}, param_values [array] in Lasagne's order,
                             toplevel_params {name: number}, build_module_src (source text, ignored)
2018    tfutil.Network       version 2, name, build_func_name, static_kwargs, variables [(name, array)],
                             build_module_src
ours    tfutil_shim.Network  see `nets.network.Network.__getstate__`
======= ==================== ===========================================================================================
"""

import argparse
import sys

import theano_env  # noqa: F401  isort: skip  (restores what the imports of Theano and Lasagne need)


from common.errors import exit_status
from common.files import save_pkl
from nets.pickles import load_pkl

# ----------------------------------------------------------------------------------------------------------------------
# Command line.


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description='Convert a pickle of the 2017 Theano or the 2018 TensorFlow release into one of this project.',
        epilog='example: python legacy.py karras2018iclr-celebahq-1024x1024.pkl celebahq.pkl')
    parser.add_argument('source', help='pickle of (G, D, Gs)')
    parser.add_argument('target', help='pickle to write')
    args = parser.parse_args(argv)

    def convert():
        loaded = load_pkl(args.source)
        save_pkl(loaded, args.target)
        for net in loaded if isinstance(loaded, (tuple, list)) else [loaded]:
            print(net)
    return exit_status('legacy.py', convert)


if __name__ == '__main__':
    sys.exit(main())
