"""Fixtures: a small run with classes, its painter, and a server for it."""

import os
import threading

import theano_torch  # noqa: F401  (lets Theano be imported)

import numpy as np
import pytest
import theano

import theano_env
from common.class_names import write_class_names
from common.files import save_pkl
from explorer.painter import Painter
from explorer.points import Point
from explorer.server import TRAY_FILE, Site, make_server
from nets.network import Network
from runs.images import load_generator


@pytest.fixture(scope='session')
def network_folder(tmp_path_factory):
    """Run 0: an untrained network of 16x16 pixels with the classes cat, dog and eel."""
    folder = tmp_path_factory.mktemp('results') / '000-animals'
    folder.mkdir()
    np.random.seed(1)
    kwargs = dict(num_channels=3, resolution=16, fmap_base=64, fmap_max=8, latent_size=8, label_size=3)
    G, D = Network('G', 'networks.G_paper', **kwargs), Network('D', 'networks.D_paper', **kwargs)
    save_pkl((G, D, G), folder / 'network-final.pkl')
    write_class_names(folder, ['cat', 'dog', 'eel'])
    return folder


@pytest.fixture(scope='session')
def painter(network_folder):
    """The painter of run 0, compiled for all levels of detail."""
    before = theano.config.mode
    theano_env.configure('torch', {'device': 'cpu'})
    painter = Painter(load_generator(str(network_folder / 'network-final.pkl')))
    latents, label = painter.latents_of_seed(0), [1.0, 0.0, 0.0]
    list(painter.images([Point(latents=latents, label=label, lod=lod) for lod in (0.0, 1.0, 2.0)]))
    theano.config.mode = before
    return painter


@pytest.fixture
def site(painter, tmp_path):
    site = Site(painter, '000-animals', 'network-final', str(tmp_path / TRAY_FILE), str(tmp_path))
    yield site
    site.close()


@pytest.fixture
def port(site):
    """The port where `site` is served."""
    with make_server(site, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()
    assert not [name for name in os.listdir(site.temporary) if name.endswith('.tmp')]
