"""The wheel's layout; everything else about the package is in pyproject.toml.

`assets/` and `precomputed/` lie at the top of the repository, where people look for them, and in the wheel within
`acip_core`, where nothing else that is installed can have the same name.
"""

from __future__ import annotations

from setuptools import find_packages, setup

BUNDLED = ("assets", "precomputed")

setup(
    packages=[*find_packages(include=["acip_core*"]), *(f"acip_core.{name}" for name in BUNDLED)],
    package_dir={f"acip_core.{name}": name for name in BUNDLED},
    package_data={"acip_core": ["py.typed", "generation/*.c"], **{f"acip_core.{name}": ["**/*"] for name in BUNDLED}},
    exclude_package_data={"acip_core.precomputed": ["*/report.html"]},
)
