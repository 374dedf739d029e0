"""Features and class probabilities from the Inception-v3 network of 2015, by the package torch-fidelity.

Its weights are converted from the original network that defines the inception score and FID.
"""

import importlib.util
import io
import os
import sys
import types
import warnings
import zipfile
from collections.abc import Callable

import numpy as np

from common.errors import UserError
from common.files import AnyPath
from common.options import PositiveInt, checked

Features = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]    # See InceptionFeatures.__call__.

WEIGHTS_URL = ('https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/'
               'weights-inception-2015-12-05-6726825d.pth')
WEIGHTS_NAME = WEIGHTS_URL.rpartition('/')[2]
MAX_WEIGHTS_BYTES = 1 << 30     # Ten times their size.
WEIGHTS_HASH = '6726825d'       # First digits of their SHA-256.


def weights_path(path: AnyPath | None = None) -> AnyPath | None:
    """Path of the weights, which need not exist: `path`, or PyTorch's download folder; None without PyTorch."""
    if path is None and importlib.util.find_spec('torch'):
        path = os.path.join(_import_torch().hub.get_dir(), 'checkpoints', WEIGHTS_NAME)
    return path


def find_weights(path: AnyPath | None = None) -> AnyPath:
    """Path of the weights: `path`, or PyTorch's download folder, to which they are downloaded if missing.

    Raises
    ------
    UserError
        The file does not exist or cannot be downloaded.
    """
    if path is not None:
        if not os.path.isfile(path):
            raise UserError(f'inception weights {path}: no such file; download {WEIGHTS_URL}')
        return path
    torch = _import_torch()
    path = os.path.join(torch.hub.get_dir(), 'checkpoints', WEIGHTS_NAME)
    if not os.path.isfile(path):
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            torch.hub.download_url_to_file(WEIGHTS_URL, path, hash_prefix=WEIGHTS_HASH)
        except (OSError, RuntimeError) as error:
            raise UserError(f'inception weights: cannot download {WEIGHTS_URL} ({error}); download it to {path} or '
                            'give the file with --inception-weights') from error
    return path


class InceptionFeatures:
    """The network, on the GPU if there is one.

    Parameters
    ----------
    weights_path : str, optional
        File of weights in the format of torch-fidelity. Default: see :func:`find_weights`.
    minibatch_size : int
        Images evaluated at a time.

    Raises
    ------
    UserError
        PyTorch, torch-fidelity or the weights are missing, or the file is of another kind.
    """

    @checked
    def __init__(self, weights_path: AnyPath | None = None, minibatch_size: PositiveInt = 32) -> None:
        self.torch = _import_torch()
        path = find_weights(weights_path)
        extractor_class = _import_extractor()
        # The package would unpickle the file without restrictions, so it gets a copy of the arrays only.
        weights = io.BytesIO()
        self.torch.save(_read_weights(self.torch, path), weights)
        weights.seek(0)
        try:
            network = extractor_class('inception-v3-compat', ['2048', 'logits_unbiased'],
                                      feature_extractor_weights_path=weights)
        except RuntimeError as error:       # The names or shapes differ.
            raise _not_weights(path, 'holds another network') from error
        if not all(self.torch.isfinite(value).all() for value in network.state_dict().values()):
            raise _not_weights(path, 'contains NaN or infinity')
        self.device = 'cuda' if self.torch.cuda.is_available() else 'cpu'
        self.network = network.to(self.device)
        self.minibatch_size = minibatch_size
        self.last_images: np.ndarray | None = None
        self.last_result: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, 2048) and class probabilities (N, 1008), float32, of uint8 images (N, 1 or 3, H, W)."""
        if images is self.last_images and self.last_result is not None:     # Another metric has just used them.
            return self.last_result
        if images.dtype != np.uint8:
            raise ValueError(f'images of type {images.dtype}: must be uint8')
        self.last_images = images
        if images.shape[1] == 1:
            images = np.repeat(images, 3, axis=1)
        results = []
        with self.torch.inference_mode():
            for begin in range(0, len(images), self.minibatch_size):
                part = self.torch.from_numpy(np.ascontiguousarray(images[begin:begin + self.minibatch_size]))
                features, logits = self.network(part.to(self.device))
                results.append((features.cpu().numpy(), self.torch.softmax(logits, dim=1).cpu().numpy()))
        all_features, all_probabilities = (np.concatenate(parts) for parts in zip(*results, strict=True))
        self.last_result = all_features, all_probabilities
        return self.last_result


def _read_weights(torch, path):
    """Read {name: tensor} from a file of PyTorch without executing anything in it."""
    try:
        size = os.path.getsize(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_WEIGHTS_BYTES:
            raise ValueError(f'has {size} bytes')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            weights = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:      # PyTorch's readers may raise anything.
        raise _not_weights(path, 'cannot be read') from error
    if not isinstance(weights, dict) or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided
            and not value.is_quantized for name, value in weights.items()):
        raise _not_weights(path, 'holds something else')
    return dict(weights)


def _not_weights(path, reason):
    return UserError(f'inception weights {path}: is not a file of weights of torch-fidelity ({reason}); download '
                     f'{WEIGHTS_URL}')


def _import_torch():
    try:
        import torch
    except ImportError as error:
        raise UserError('inception features: need PyTorch; pip install torch, or leave out the metrics that '
                        'take them') from error
    return torch


def _import_extractor():
    return fidelity_module('feature_extractor_inceptionv3').FeatureExtractorInceptionV3


def fidelity_module(name: str, use: str = 'inception features') -> types.ModuleType:
    """A module of torch-fidelity without the rest of the package.

    The rest imports torchvision, whose builds fit one build of PyTorch each, and which nothing here needs.

    Parameters
    ----------
    name : str
        'metric_kid' and the like.
    use : str
        What needs it, for the error message.

    Raises
    ------
    UserError
        The package is missing.
    """
    spec = importlib.util.find_spec('torch_fidelity')
    if spec is None:
        raise UserError(f'{use}: need the package torch-fidelity; pip install --no-deps torch-fidelity')
    module_name = f'torch_fidelity.{name}'
    if 'torch_fidelity' in sys.modules:
        return importlib.import_module(module_name)
    # They stand in for the package and its reader of images while the module is imported.
    package, readers = types.ModuleType('torch_fidelity'), types.ModuleType('torch_fidelity.utils')
    package.__path__ = list(spec.submodule_search_locations or ())
    readers.__dict__['__getattr__'] = lambda _name: None        # Whatever is imported from there.
    stand_ins = {'torch_fidelity': package, 'torch_fidelity.utils': readers}
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module(module_name)
    finally:
        for stand_in in (*stand_ins, module_name):      # It knows the stand-ins: whoever imports it gets another one.
            sys.modules.pop(stand_in, None)
