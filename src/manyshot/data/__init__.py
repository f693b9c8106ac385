"""Data sets, their splits, and fast batches: what the images are and in which order they come."""

from manyshot.data.augment import Augment
from manyshot.data.batches import Batch, Batches, Growth
from manyshot.data.description import DataDescription
from manyshot.data.fixed_batches import FixedBatches, fixed
from manyshot.data.images import ImageFolderSet, ImageSet, LabelledImages
from manyshot.data.missing import DataNotFound
from manyshot.data.own import OwnSet
from manyshot.data.prepared import prepared
from manyshot.data.sources import DATASETS
from manyshot.data.splits import Splits, load, own_data

__all__ = [
    "Augment",
    "Batch",
    "Batches",
    "DATASETS",
    "DataDescription",
    "DataNotFound",
    "FixedBatches",
    "Growth",
    "ImageFolderSet",
    "ImageSet",
    "LabelledImages",
    "OwnSet",
    "Splits",
    "fixed",
    "load",
    "own_data",
    "prepared",
]
