"""docs/tour.ipynb runs, and is small enough for the repository."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers import ROOT

TOUR = ROOT / 'docs' / 'tour.ipynb'


def pictures(notebook):
    return [output for cell in notebook.cells for output in cell.get('outputs', ())
            if {'image/png', 'image/gif'}.intersection(output.get('data', ()))]


@pytest.mark.slow
def test_the_tour_runs(network_folder):
    """Run the notebook in a separate folder, as notebook programs do, on a run with classes."""
    notebook = nbformat.read(TOUR, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.cell_type == 'code')
    assert "RESULTS = 'results'" in cell.source
    cell.source = cell.source.replace("'results'", repr(str(network_folder.parent)))
    for cell in notebook.cells:
        cell.source = cell.source.replace('num_steps=200', 'num_steps=5')
    NotebookClient(notebook, timeout=250, kernel_name='python3',
                   resources={'metadata': {'path': str(TOUR.parent)}}).execute()
    assert len(pictures(notebook)) == 5


def test_the_tour_is_small_and_complete():
    assert TOUR.stat().st_size < 300_000
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    assert len(pictures(notebook)) == 5
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', ())]
    assert 'error' not in {output.output_type for output in outputs}
    assert '/tmp' not in TOUR.read_text(encoding='utf-8')
