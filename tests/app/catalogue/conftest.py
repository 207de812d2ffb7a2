"""The real catalogue, read and indexed once for all tests."""

import pytest

from app.catalogue.load import Catalogue, load_catalogue
from app.catalogue.snapshot import Snapshot
from config.settings import ROOT

FOLDER = ROOT / "config" / "catalogue"


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return load_catalogue(FOLDER)


@pytest.fixture(scope="session")
def snapshot(catalogue: Catalogue) -> Snapshot:
    return Snapshot(catalogue, version_id="test", number=1)
