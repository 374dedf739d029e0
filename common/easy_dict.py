"""The dict of the 2018 release's `config.py`, with attribute access."""

from typing import Any


class EasyDict(dict):
    """Dict in which ``options.name`` reads, sets and deletes ``options['name']``."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        if name not in self:
            raise AttributeError(name)
        del self[name]
