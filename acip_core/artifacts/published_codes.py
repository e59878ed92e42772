"""A model's codes onto the Hub, so that a machine that forgets its disk fetches them at its start."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..model.base_model import fingerprint
from ..model.code_cache import code_files, codes_place
from ..model.coded_states import coded_matrices
from ..model.packed_codes import pack
from ..progress import Progress, Steps
from ..storage.hub import upload
from .loading import Loaded, bits_refused, install_coding


def publish_codes(loaded: Loaded, repo: str, private: bool = False) -> Steps[str]:
    """Upload the codes of an opened model, made where they are not there yet, beside what the repository has.

    Returns:
        Its address.

    Raises:
        AcipError: there are none, as `bits_refused` says; they cannot be written or published.
    """
    yield from install_coding(loaded)
    if (refused := bits_refused(loaded)) is not None:
        raise refused
    assert loaded.coding is not None
    moments = loaded.coding.moments
    matrices = coded_matrices(loaded.elastic, moments.tables)
    with tempfile.TemporaryDirectory(prefix="acip-") as folder:
        yield from pack(codes_place(moments, fingerprint(matrices)), code_files(matrices), Path(folder))
        yield Progress("publishing codes", 0, 1)
        return upload(Path(folder), repo, private)
