"""The name under which scripts of the 2017 and 2018 releases import datasets. Our own modules do not import it."""

from data.dataset import Dataset
from training.old_scripts import OldDataset, load_dataset
