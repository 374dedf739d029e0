"""Classes of labelled images, which users select by number or name."""

import json
import os
from collections.abc import Sequence

from common.errors import UserError, did_you_mean
from common.files import AnyPath, atomic_write

FILE_NAME = 'class-names.json'      # Within a run folder.
MAX_FILE_BYTES = 1 << 20
LISTED = 10

ClassChoice = int | str             # The number of a class from 0, or its name.


def class_number(choice: ClassChoice, names: Sequence[str] | None, num_classes: int, owner: str) -> int:
    """Number of a class that a user selects.

    Parameters
    ----------
    choice : int or str
        The number, or a name. Case matters only if two names differ in nothing else.
    names : sequence of str or None
        Names of the classes in order; None: unknown.
    num_classes : int
    owner : str
        Name of the network or file with these classes, for messages.

    Raises
    ------
    UserError
        The class does not exist.
    """
    if not isinstance(choice, str):
        if not 0 <= choice < num_classes:
            raise UserError(f'classes: there is no class {choice}; {owner} has 0 to {num_classes - 1}')
        return int(choice)
    names = list(names or [])[:num_classes]
    if not names:
        raise UserError(f'classes: {owner} stores no class names, so {choice!r} is unknown; give '
                        f'numbers from 0 to {num_classes - 1}')
    found = [number for number, name in enumerate(names) if name == choice] or \
            [number for number, name in enumerate(names) if name.casefold() == choice.casefold()]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f'classes: {choice!r} is the name of the classes {", ".join(map(str, found))} of {owner}; '
                        'give the number')
    raise UserError(f'classes: there is no class {choice!r}; {owner} has {list_classes(names)}'
                    f'{did_you_mean(choice, names)}')


def list_classes(names: Sequence[str], limit: int = LISTED) -> str:
    """``0 cat, 1 dog, ...``"""
    listed = ', '.join(f'{number} {name}' for number, name in enumerate(names[:limit]))
    return listed + (f', ... ({len(names)} classes)' if len(names) > limit else '')


def write_class_names(run_dir: AnyPath, names: Sequence[str] | None) -> None:
    """Write the class names of a run's dataset to the run folder; None: write nothing."""
    if names:
        with atomic_write(os.path.join(run_dir, FILE_NAME), 'w', encoding='utf-8') as file:
            json.dump(list(names), file, indent=1)


def read_class_names(run_dir: AnyPath, num_classes: int | None = None) -> list[str] | None:
    """Read the names that :func:`write_class_names` wrote; None if missing, damaged or not `num_classes`."""
    try:
        with open(os.path.join(run_dir, FILE_NAME), 'rb') as file:
            names = json.loads(file.read(MAX_FILE_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    return names if num_classes in (None, len(names)) else None
