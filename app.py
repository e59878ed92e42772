"""Start the page: `python app.py`, then drag the slider in a browser; the same program as `acip app`."""

from __future__ import annotations

import sys

from acip_core.cli import main

if __name__ == "__main__":
    main(["app", *sys.argv[1:]])
