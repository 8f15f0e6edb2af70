"""The packages of a wheel; all else is in pyproject.toml.

conf/ and sweeps/ stand at the top of the checkout, where people look for them. Installed they are
data of tspin, and tspin.cli.folders finds them in either place.
"""

from setuptools import find_packages, setup

DATA = {"tspin.conf": "conf", "tspin.sweeps": "sweeps"}

setup(
    # hydra_plugins is a namespace that other plugins share: a folder without __init__.py.
    packages=[*find_packages(include=["tspin*", "analysis*"]), "hydra_plugins", *DATA],
    package_dir=DATA,
)
