"""Versions, engine, device and commit, for problem reports."""

import pathlib
import platform
import subprocess

import theano_env
from training import fingerprint

ROOT = pathlib.Path(__file__).resolve().parent.parent


def commit() -> str:
    """The commit of this clone, with '-dirty' after local changes; 'unknown' without a clone or without Git."""
    try:
        found = subprocess.run(['git', '-C', str(ROOT), 'describe', '--always', '--dirty', '--abbrev=12'],
                               capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return 'unknown'
    return found.stdout.strip()


def describe(engine: str, theano_flags: dict | None, precision: str) -> list[str]:
    """Lines with the commit, the versions of program and packages, the machine, and the engine."""
    facts = fingerprint.of_program()
    try:
        environment = str(theano_env.configure(engine, theano_flags, precision=precision))
    except theano_env.EnvironmentProblem as problem:
        environment = f'Engine: none: {problem}'
    return [f'commit {commit()}, files {facts["this program"]}',
            ', '.join(f'{name} {version}' for name, version in facts.items() if name != 'this program'),
            platform.platform(), environment]
