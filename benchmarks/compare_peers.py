"""Compare the speed of our training step with other implementations, which take turns so that noise affects all.

    pip install --no-deps pro-gan-pth==3.4
    python benchmarks/compare_peers.py --resolution 32 --fmap-max 64
    python benchmarks/compare_peers.py --resolution 128 --fmap-base 2048 --fmap-max 512 --lods 0
    python benchmarks/compare_peers.py --contenders ours theano

Each contender has its own process; only one of them computes at a time:

======= ===============================================================================================================
ours    this project on the torch engine
theano  this project on Theano's own C code
peer    pro-gan-pth 3.4 (PyTorch, MIT licence): its D and G step with averaged weights. The patches below make it run on
        a current PyTorch and give it our number of feature maps
======= ===============================================================================================================

All contenders have the same layer widths, minibatch and number of threads, and flush denormal numbers to zero. A round
times each contender for the same duration. `times as long` is the median over the rounds of the ratio to the first
contender in the same round. `of peak` is the rate of multiplications, counted for direct convolution, relative to a
matrix product that another process times in the same round.
"""

import argparse
import json
import os
import subprocess
import sys
import types

import train_step

CONTENDERS = ('ours', 'peer', 'theano')
PRODUCT = 'product'     # The process of the matrix product, so that its memory counts for no contender.


# ----------------------------------------------------------------------------------------------------------------------
# The peer.


def import_peer(fmap_base, fmap_max):
    """The modules of pro-gan-pth, patched for a current PyTorch and our number of feature maps per stage."""
    import torch
    # The package imports these for its training script, which we do not use.
    for name, contents in [('torchvision', {}), ('torchvision.utils', {'save_image': None}),
                           ('torchvision.transforms', dict.fromkeys(
                               ['Compose', 'RandomHorizontalFlip', 'Resize', 'ToTensor'], lambda *args: None)),
                           ('torch.utils.tensorboard', {'SummaryWriter': None})]:
        module = types.ModuleType(name)
        module.__dict__.update(contents)
        sys.modules[name] = module
    try:
        from pro_gan_pytorch import custom_layers, gan, losses, networks
    except ImportError as error:
        sys.exit(f'compare_peers.py: error: contender peer: {error}; pip install --no-deps pro-gan-pth==3.4')

    def conv_transpose(self, x, output_size=None):      # The original calls a private method that has changed.
        return torch.conv_transpose2d(x, self.weight * self.scale, self.bias, self.stride, self.padding)

    custom_layers.EqualizedConvTranspose2d.forward = conv_transpose
    networks.nf = lambda stage: min(int(fmap_base / 2.0 ** stage), fmap_max)
    return gan, losses, networks


class Peer:
    """Networks and training step of the peer, with the interface of `train_step.Trainer`."""

    def __init__(self, args):
        import torch
        gan, losses, networks = import_peer(args.fmap_base, args.fmap_max)
        torch.set_flush_denormal(True)
        self.args, self.torch = args, torch
        self.depth = args.resolution.bit_length() - 1
        self.latent_size = min(args.fmap_max, args.fmap_base)
        G = networks.Generator(self.depth, args.channels, self.latent_size)
        D = networks.Discriminator(self.depth, args.channels, self.latent_size)
        with open(os.devnull, 'w') as nowhere:
            stdout, sys.stdout = sys.stdout, nowhere        # ProGAN prints the networks.
            self.trainer = gan.ProGAN(G, D)
            sys.stdout = stdout
        self.update_average = gan.update_average
        self.loss = losses.WganGP()
        adam = dict(lr=1e-4, betas=(0.0, 0.99), eps=1e-8)
        self.g_optimizer = torch.optim.Adam(self.trainer.gen.parameters(), **adam)
        self.d_optimizer = torch.optim.Adam(self.trainer.dis.parameters(), **adam)

    def compile(self, lod):
        args, torch, trainer = self.args, self.torch, self.trainer
        depth, alpha = self.depth - int(lod), 1 - lod % 1
        reals = torch.rand(args.minibatch, args.channels, args.resolution, args.resolution) * 2 - 1

        def step():
            noise = torch.randn(args.minibatch, self.latent_size)
            trainer.optimize_discriminator(self.loss, self.d_optimizer, noise, reals, depth, alpha)
            self.update_average(trainer.gen_shadow, trainer.gen, beta=0.999)
            trainer.optimize_generator(self.loss, self.g_optimizer, noise, reals, depth, alpha)
        return step


# ----------------------------------------------------------------------------------------------------------------------
# Processes.


def work(args):
    """Process of a contender or of the matrix product: answers each JSON request, one per line, with a JSON line."""
    args.engine = 'theano' if args.work == 'theano' else 'torch'
    if args.work == 'peer':
        contender = Peer(args)
    elif args.work in CONTENDERS:
        contender = train_step.Trainer(args)
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        if 'lod' in request:
            step = contender.compile(request['lod'])
            answer['first'] = train_step.time_steps(step, 0, minimum=2)
        elif 'seconds' in request:
            answer['seconds'] = train_step.time_steps(step, request['seconds'])
            answer['memory'] = train_step.peak_memory_mb()
        elif 'peak' in request:
            answer['peak'] = train_step.matrix_product_flops()
        else:
            answer['flops'] = contender.step_flops(request['flops'])
        print(json.dumps(answer), flush=True)


class Contender:
    """A child process that runs :func:`work`."""

    def __init__(self, name):
        self.name = name
        self.process = subprocess.Popen([sys.executable, __file__, *sys.argv[1:], '--work', name],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **request):
        try:
            self.process.stdin.write(json.dumps(request) + '\n')
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ''
        if not line:
            sys.exit(f'compare_peers.py: error: contender {self.name} ended with status {self.process.wait()}')
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def compare(lod, args):
    """Time all contenders at one lod, in new processes; return the row as a dict."""
    from statistics import median
    contenders, product = [Contender(name) for name in args.contenders], Contender(PRODUCT)
    for contender in contenders:
        contender.ask(lod=lod)
    flops = next((c.ask(flops=lod)['flops'] for c in contenders if c.name != 'peer'), None)
    rounds, peaks, memory = [], [], {}
    for _ in range(args.repetitions):
        seconds = {}
        for contender in contenders:
            answer = contender.ask(seconds=args.seconds)
            seconds[contender.name], memory[contender.name] = answer['seconds'], answer['memory']
        peaks.append(product.ask(peak=True)['peak'])
        rounds.append(seconds)
    for contender in (*contenders, product):
        contender.close()
    row = {'lod': lod, 'resolution': args.resolution >> int(lod), 'peak_gflops': median(peaks) / 1e9}
    for name in args.contenders:
        ratios = sorted(seconds[name] / seconds[args.contenders[0]] for seconds in rounds)
        row[name] = {
            'sec_per_kimg': median(seconds[name] for seconds in rounds) / args.minibatch * 1000,
            'ratio': median(ratios), 'ratio_min': ratios[0], 'ratio_max': ratios[-1], 'memory_mb': memory[name],
            'of_peak': flops and median(flops / seconds[name] / peak
                                        for seconds, peak in zip(rounds, peaks, strict=True))}
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    train_step.add_network_options(parser)
    parser.add_argument('--contenders', nargs='+', default=['ours', 'peer'], choices=CONTENDERS,
                        help='the others are compared with the first one; default: ours peer')
    parser.add_argument('--seconds', type=float, default=3, help='per contender and round; default: %(default)s')
    parser.add_argument('--work', choices=(*CONTENDERS, PRODUCT), help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ['OMP_NUM_THREADS'] = str(args.threads)
    if args.work:
        work(args)
        return
    print(f'{"lod":<5} {"size":<6} {"":<8} {"sec/kimg":<10} {"times as long":<24} {"of peak":<9} {"memory"}')
    rows = []
    for lod in train_step.chosen_lods(args):
        row = compare(lod, args)
        rows.append(row)
        for name in args.contenders:
            entry = row[name]
            print('%-5.1f %-6d %-8s %-10.1f %-24s %-9s %d MB' % (
                lod, row['resolution'], name, entry['sec_per_kimg'],
                '%.2f (%.2f - %.2f)' % (entry['ratio'], entry['ratio_min'], entry['ratio_max']),
                '-' if entry['of_peak'] is None else '%.0f %%' % (100 * entry['of_peak']), entry['memory_mb']),
                flush=True)
    train_step.write_json(args, rows)


if __name__ == '__main__':
    main()
