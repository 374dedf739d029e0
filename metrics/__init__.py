"""Metrics, one per file, all with the same calls: ``begin(mode)``, ``feed(mode, images, ...)``, ``end(mode)``."""
