"""Training: schedule, options, compiled steps, snapshots, resuming, several processes."""

import theano_torch  # noqa: F401  (lets Theano be imported)
