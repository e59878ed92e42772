"""The Python API: `AcipModel` and `precompute`, with the verbs of transformers and of the command line."""

from .model import AcipModel
from .precomputing import precompute

__all__ = ["AcipModel", "precompute"]
