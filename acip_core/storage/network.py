"""Whether the Hugging Face Hub can be reached, known within seconds instead of after its library's many retries."""

from __future__ import annotations

import logging
import os

from huggingface_hub import constants
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import get_session

log = logging.getLogger("acip")
_TIMEOUT = 4  # seconds


def offline_mode() -> bool:
    """Whether the user asked for copies on this machine only."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in constants.ENV_VARS_TRUE_VALUES


def hub_reachable() -> bool:
    """Whether the Hub's client, with its proxies, gets any answer; false in offline mode, without a request."""
    if offline_mode():
        return False
    try:
        address = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
        get_session().head(address, timeout=_TIMEOUT, follow_redirects=False)
    except (HTTPError, OSError) as error:
        log.debug("The Hub does not answer: %s", error)
        return False
    except Exception as error:  # an address or a proxy that is none, one that needs a package
        log.warning("The Hub cannot be asked: %s", error)
        return False
    return True
