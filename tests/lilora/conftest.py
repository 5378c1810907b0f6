"""One tiny backbone and one set of tasks for the whole session."""

from __future__ import annotations

import pytest

from tests.lilora.lab import Lab


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))
