"""Training: schedule, options, compiled steps, snapshots, resuming, data parallelism."""

import theano_torch  # noqa: F401  (lets Theano be imported)
