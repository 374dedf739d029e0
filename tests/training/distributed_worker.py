"""Program of the processes in test_processes.py: ``python distributed_worker.py TASK FOLDER``."""

import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from theano_torch import collective

import theano
import theano.tensor as T

import theano_env
import train
from nets.ranks import SINGLE
from training import experiment, processes, stopping

SCENARIOS = {
    'separate': {'separate_funcs': True, 'D_training_repeats': 2, 'total_kimg': 0.064, 'lod_training_kimg': 0.032},
    'joint': {'separate_funcs': False, 'total_kimg': 0.032, 'lod_initial_resolution': 8, 'lod_training_kimg': 0.032},
}


def run(scenario, folder, ranks=SINGLE, mbstat_groups=1, also=lambda report: None):
    """Train 8x8 networks with labels; save the last parameters and random state."""
    nets = {'fmap_base': 32, 'fmap_max': 4}
    options = {
        'desc': scenario, 'random_seed': 5,
        'dataset': {'h5_path': 'tiny.h5', 'mirror_augment': True},
        'G': dict(nets, func='networks.G_paper', latent_size=4),
        'D': dict(nets, func='networks.D_paper', use_gdrop=True, mbstat_groups=mbstat_groups),
        'train': dict(SCENARIOS[scenario], minibatch_default=8, lod_transition_kimg=0.032, rampup_kimg=0,
                      dequantize_reals=True, gdrop_lim=0.0, gdrop_coef=0.5, tick_kimg_default=0.016,
                      tick_kimg_overrides={}, G_learning_rate_max=0.01, image_grid_size=(2, 2)),
    }
    lods = []

    def keep(report):
        lods.append(report.schedule.lod)
        arrays = {f'{key} {name}': var.get_value() for key, net in report.networks.items()
                  for name, var in net.vars.items()}
        state = np.random.get_state()
        np.savez(pathlib.Path(folder) / f'{scenario}-{ranks.size}-{ranks.rank}.npz', lods=lods,
                 random_keys=state[1], random_position=state[2], **arrays)
        also(report)

    return experiment.run_experiment(options, str(folder), str(pathlib.Path(folder) / f'results-{ranks.size}'),
                                     'torch', {'floatX': 'float64', 'device': 'cpu'}, ranks, show_progress=False,
                                     on_step=keep, train_gan=train.train_gan)


def average(ranks):
    """Average constants on all engines, in two buckets and in one; Theano must neither fold nor merge the two calls."""
    for engine in ('torch',) if theano_env.NUMPY_2 else ('torch', 'python'):
        theano_env.configure(engine, {'device': 'cpu'})
        values = [T.constant(np.float32(1 + 2 * ranks.rank)), T.constant(np.full((2, 3), ranks.rank, 'float64'))]
        means = collective.all_reduce_mean(values, [1, 6], 8) + collective.all_reduce_mean(values)
        function = theano.function([], means)
        nodes = [node for node in function.maker.fgraph.apply_nodes if isinstance(node.op, collective.FinishMean)]
        assert [node.op.counts for node in nodes] in ([[1, 1], [2]], [[2], [1, 1]])
        for _call in range(2):
            results = function()
            for first, second in (results[:2], results[2:]):
                assert first == 2 and first.dtype == np.float32
                np.testing.assert_array_equal(second, np.full((2, 3), 0.5))


def hang(ranks, folder):
    """Rank 0 waits in a collective operation that rank 1 never joins."""
    with stopping.ending_together(ranks, folder):
        if ranks.rank:
            time.sleep(60)
        import torch
        pathlib.Path(folder, 'waiting').touch()
        collective.mean_over_processes([torch.zeros(1)])


def differ(ranks, folder):
    """Both ranks report how rank 1 differs, before anything is saved."""
    facts = {'random_seed': 1 + ranks.rank, 'total_kimg': 10, 'dataset': 'abc'}
    said = []
    for others in (facts, {**facts, 'random_seed': 1}, {'random_seed': 1, **({'new': None} if ranks.rank else {})}):
        try:
            processes.check_same(ranks, others, ' at kimg 5.0')
            said.append('the same')
        except processes.RanksDiffer as error:
            said.append(str(error))
    pathlib.Path(folder, f'said-{ranks.rank}').write_text('\n'.join(said))


def drift(ranks, folder):
    """Change a weight only on rank 1."""
    import torch.distributed as dist

    def change(report):
        if report.cur_nimg == 16 and ranks.rank:
            name = next(iter(report.networks['D'].trainables))
            report.networks['D'].set_var(name, report.networks['D'].get_var(name) + 1e-7)

    try:
        run('joint', folder, ranks, also=change)
    except processes.RanksDiffer as error:
        pathlib.Path(folder, f'drift-{ranks.rank}').write_text(str(error))
    dist.destroy_process_group()


def orphaned(ranks, folder):
    """Rank 0 hangs until it is killed; the others wait for it in a collective operation."""
    with processes.process_group(ranks, 'cpu'), stopping.ending_together(ranks, folder):
        import torch
        pathlib.Path(folder, f'waiting-{ranks.rank}').touch()
        if not ranks.rank:
            time.sleep(600)
        collective.mean_over_processes([torch.zeros(1)])


def main(task, folder):
    ranks = processes.from_environment()
    if task in SCENARIOS:
        run(task, folder, ranks)
        return
    if task == 'drift':
        drift(ranks, folder)
        return
    if task == 'orphaned':
        try:
            orphaned(ranks, folder)
        except processes.EndedElsewhere as error:
            print(error if error.is_reported_here else 'reported elsewhere')
        return
    with processes.process_group(ranks, 'cpu'):
        if task == 'average':
            average(ranks)
            differ(ranks, folder)
        else:
            hang(ranks, folder)


if __name__ == '__main__':
    main(*sys.argv[1:])
