"""The name under which scripts of the 2017 and 2018 releases find data sets; the rooms do not use it."""

from data.dataset import Dataset
from training.old_scripts import OldDataset, load_dataset
