"""List the images of a folder or .zip file, report what is left out, and read labels from ``dataset.json``."""

import dataclasses
import functools
import json
import os
import stat
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from common.errors import UserError, one_line
from common.files import AnyPath, check_regular, open_input
from common.options import short_repr
from data.archives import ZIP_ERRORS, open_archive, read_member
from data.image_source import one_hot
from data.pictures import Source, is_image_name, printable

LABELS_FILE = 'dataset.json'        # Labels in the format of StyleGAN2-ADA and StyleGAN3.
MAX_CLASSES = 1 << 17               # The full ImageNet has 21841 classes.
MAX_ONE_HOT_BYTES = 1 << 34         # float32 labels in memory; those of ImageNet (1.3 million, 1000 classes) take 5 GB.
LISTED_FILES = 10                   # Largest number of files that a message lists.
MAX_LABELS_BYTES = 1 << 28          # Size of dataset.json: about 50 bytes for each of 5 million images.

HIDDEN = 'hidden files and folders'
NO_IMAGES = 'files without the suffix of an image'
SUB_FOLDERS = 'sub-folders'
DANGLING = 'broken links'
CIRCLES = 'links to parent folders'
LINKS = 'links within the .zip file'
NO_FILES = 'neither files nor folders'
UNREADABLE = 'unreadable folders'


@dataclasses.dataclass(frozen=True)
class PictureFolder:
    """The result of :func:`find_pictures`.

    Attributes
    ----------
    names : list of str
        Paths of the images relative to the folder, sorted.
    source : callable
        ``source(name)`` returns an input of :func:`data.pictures.read_picture`.
    classes : list of str or None
        Sub-folder of each image; None if the folder itself has images or a ``dataset.json``.
    left_out : dict
        Names of everything that is left out, by reason.
    labels_file : bytes or None
        Content of ``dataset.json``.
    """

    names: list[str]
    source: Callable[[str], Source]
    classes: list[str] | None
    left_out: dict[str, list[str]]
    labels_file: bytes | None = None


def list_pictures(image_dir: AnyPath) -> PictureFolder:
    """The pictures of a folder or .zip file, see :func:`find_pictures`. Prints which files are left out."""
    folder = find_pictures(image_dir)
    for reason, names in folder.left_out.items():
        print(f'Left out: {len(names)} {reason}: {list_names(names)}')
    return folder


def find_pictures(image_dir: AnyPath) -> PictureFolder:
    """The pictures of a folder or .zip file.

    If the folder itself has images, its sub-folders are left out, unless there is a ``dataset.json``. The same rules
    hold at every depth: hidden files and folders are left out; links are followed, except broken and circular ones;
    files without the suffix of an image are left out.

    Raises
    ------
    UserError
        The folder cannot be read or has no images.
    """
    check_regular(image_dir)
    folder = _zip_file(image_dir) if os.path.isfile(image_dir) and _is_zip(image_dir) else _folder(image_dir)
    if not folder.names:
        files = sum(len(names) for reason, names in folder.left_out.items() if reason != SUB_FOLDERS)
        raise UserError(f'IMAGE_DIR={image_dir!r}: has no images ({files} other files, '
                        f'{len(folder.left_out.get(SUB_FOLDERS, ()))} sub-folders without images); give the folder '
                        f'that holds them{described(folder.left_out, "; left out: ")}')
    return folder


def described(left_out: dict[str, list[str]], before: str) -> str:
    text = '; '.join(f'{len(names)} {reason}: {list_names(names)}' for reason, names in left_out.items())
    return before + text if text else ''


def list_names(names: Iterable[str]) -> str:
    """The first names, and the number of the remaining ones."""
    listed = list(map(printable, names))
    more = len(listed) - LISTED_FILES
    return ', '.join(listed[:LISTED_FILES]) + (f' and {more} more' if more > 0 else '')


def _in_order(names):
    """Sort by the first folder, then by the whole path."""
    return sorted(names, key=lambda name: (os.path.dirname(name) and name.split(os.sep)[0], name))


def _classes(names):
    return [name.split(os.sep)[0] for name in names] if os.path.dirname(names[0]) else None


# ----------------------------------------------------------------------------------------------------------------------
# Folders.


def _folder(image_dir):
    try:
        top = _Scan(os.fspath(image_dir))
    except OSError as error:
        raise UserError(f'IMAGE_DIR={image_dir!r}: cannot be read ({error.strerror}); give a folder of images, or a '
                        '.zip file') from error
    labels_file = None
    if LABELS_FILE in top.left_out.get(NO_IMAGES, ()):
        path = os.path.join(image_dir, LABELS_FILE)
        try:
            with open_input(path) as file:
                content = file.read(MAX_LABELS_BYTES + 1)
        except OSError as error:
            raise UserError(f'{path}: cannot be read ({error.strerror}); copy it again') from error
        if len(content) > MAX_LABELS_BYTES:
            raise UserError(f'{path}: has more than {MAX_LABELS_BYTES} bytes; make it smaller, or add --no-labels')
        labels_file = _if_labels(content, path)
    if labels_file is not None:
        top.leave_in(NO_IMAGES, LABELS_FILE)
    if top.names and labels_file is None:
        if top.folders:
            top.left_out[SUB_FOLDERS] = top.folders
    else:
        top.descend()
        if not top.names and top.folders:
            top.left_out[SUB_FOLDERS] = top.folders
    names = _in_order(top.names)
    return PictureFolder(names, lambda name: os.path.join(image_dir, name),
                         _classes(names) if names and labels_file is None else None, top.left_out, labels_file)


class _Scan:
    """Sorts the entries of a folder, and with :meth:`descend` of its sub-folders, into names, folders, `left_out`."""

    def __init__(self, top):
        self.top = top
        self.names, self.folders, self.left_out = [], [], {}
        self.visit('', self.folders)

    def visit(self, folder, folders):
        with os.scandir(os.path.join(self.top, folder)) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = os.path.join(folder, entry.name)
                kind = self.kind(entry)
                if kind is None:
                    (folders if entry.is_dir() else self.names).append(name)
                else:
                    self.left_out.setdefault(kind, []).append(name)

    @staticmethod
    def kind(entry):
        """Reason to leave out an entry; None for images and folders."""
        if entry.name.startswith('.'):
            return HIDDEN
        try:
            if entry.is_dir():
                return None
            if entry.is_file():
                return None if is_image_name(entry.name) else NO_IMAGES
        except OSError:     # The link refers to itself.
            return DANGLING
        return DANGLING if entry.is_symlink() else NO_FILES

    def descend(self):
        waiting = [(folder, frozenset([os.path.realpath(self.top)])) for folder in self.folders]
        while waiting:
            folder, above = waiting.pop(0)
            real = os.path.realpath(os.path.join(self.top, folder))
            if real in above:
                self.left_out.setdefault(CIRCLES, []).append(folder)
                continue
            folders = []
            try:
                self.visit(folder, folders)
            except OSError:
                self.left_out.setdefault(UNREADABLE, []).append(folder)
            waiting += [(name, above | {real}) for name in folders]

    def leave_in(self, reason, name):
        self.left_out[reason].remove(name)
        if not self.left_out[reason]:
            del self.left_out[reason]


# ----------------------------------------------------------------------------------------------------------------------
# .zip files.


def _is_zip(path):
    try:
        return zipfile.is_zipfile(path)
    except ZIP_ERRORS:
        return True


def _zip_file(path):
    try:
        archive = open_archive(path)
        members = {member.filename.replace('/', os.sep): member for member in archive.infolist() if not member.is_dir()}
        labels_file = read_member(archive, members[LABELS_FILE], MAX_LABELS_BYTES) if LABELS_FILE in members else None
    except ZIP_ERRORS as error:     # Includes MemberError; some archives have members without a name.
        raise UserError(f'IMAGE_DIR={path!r}: this .zip file cannot be read ({one_line(error)}); make it '
                        'again') from error
    labels_file = labels_file and _if_labels(labels_file, f'{path}: {LABELS_FILE}')
    if labels_file is not None:
        del members[LABELS_FILE]
    tops = {name.split(os.sep)[0] for name in members if not _is_hidden(name)}
    if labels_file is None and len(tops) == 1 and not any(top in members for top in tops):
        # The archive contains a single folder, as packing a folder does.
        members = {name.split(os.sep, 1)[1]: member for name, member in members.items()
                   if name.split(os.sep)[0] in tops}
    left_out, names = {}, []
    for name in sorted(members):
        kind = _member_kind(name, members[name])
        if kind is None:
            names.append(name)
        else:
            left_out.setdefault(kind, []).append(name)
    if labels_file is None and any(not os.path.dirname(name) for name in names):
        folders = {name.split(os.sep)[0] for name in names if os.path.dirname(name)}
        names = [name for name in names if not os.path.dirname(name)]
        if folders:
            left_out[SUB_FOLDERS] = sorted(folders)
    names = _in_order(names)

    return PictureFolder(names, lambda name: functools.partial(read_member, archive, members[name]),
                         _classes(names) if names and labels_file is None else None, left_out, labels_file)


def _is_hidden(name):
    return any(part.startswith('.') or part == '__MACOSX' for part in name.split(os.sep))


def _member_kind(name, member):
    if _is_hidden(name):
        return HIDDEN
    if stat.S_ISLNK(member.external_attr >> 16):
        return LINKS
    return None if is_image_name(os.path.basename(name)) else NO_IMAGES


# ----------------------------------------------------------------------------------------------------------------------
# dataset.json of StyleGAN2-ADA and StyleGAN3.


def _if_labels(content, path):
    """Return `content` if it is a file of labels, None if it is another JSON file of the same name."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: is not a JSON file ({one_line(error)}); copy it again, or delete it if it holds no '
                        'labels') from error
    return content if isinstance(document, dict) and 'labels' in document else None


def json_labels(content: bytes, names: list[str]) -> np.ndarray | None:
    """Labels of images according to ``dataset.json``.

    Parameters
    ----------
    content : bytes
        ``{"labels": [["00000/img00000000.png", 6], ...]}`` with a class number or one-hot vector each; or null.
    names : list of str
        Paths of the images relative to the folder of ``dataset.json``.

    Returns
    -------
    ndarray, shape (N, label_size), float32, or None
        None if the dataset has no labels.

    Raises
    ------
    UserError
        An image has no label, or the labels are not class numbers or vectors of equal length.
    """
    entries: Any = json.loads(content)['labels']
    if entries is None:
        return None
    cure = 'correct it, or add --no-labels'
    try:
        by_name = {os.path.normpath(name): label for name, label in entries}
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f'{LABELS_FILE}: its labels must be a list of [name, label]; {cure}') from error
    missing = [name for name in names if name not in by_name]
    if missing:
        raise UserError(f'{LABELS_FILE}: has no label for {len(missing)} of {len(names)} images: '
                        f'{list_names(missing)}; {cure}')
    unused = sorted(set(by_name) - set(names))
    if unused:
        print(f'Left out: {len(unused)} labels of {LABELS_FILE} without an image: {list_names(unused)}')
    labels = [by_name[name] for name in names]
    if all(isinstance(label, int) and not isinstance(label, bool) and label >= 0 for label in labels):
        if max(labels) >= MAX_CLASSES or (max(labels) + 1) * len(labels) * 4 > MAX_ONE_HOT_BYTES:
            raise UserError(f'{LABELS_FILE}: has the class {short_repr(max(labels))} for one of {len(labels)} images; '
                            f'the limits are {MAX_CLASSES - 1} and {MAX_ONE_HOT_BYTES} bytes of one-hot labels; {cure}')
        return one_hot(labels, max(labels) + 1)
    try:
        array = np.array(labels, np.float32)
    except (TypeError, ValueError):
        array = np.zeros(0, np.float32)
    if array.ndim != 2:
        raise UserError(f'{LABELS_FILE}: its labels must be class numbers from 0, or vectors of equal length; '
                        f'{cure}')
    return array
