import pytest


def _toy():
    import toy  # skips the test where the service's packages are not installed

    return toy


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """An index that no test changes."""
    folder = tmp_path_factory.mktemp("shop") / "index"
    _toy().make_index(folder)
    return folder


@pytest.fixture(scope="module")
def client(shop):
    with _toy().served(shop) as made:
        yield made


@pytest.fixture
def changing(tmp_path):
    """A service over an index of its own."""
    _toy().make_index(tmp_path / "index", photos=1)
    with _toy().served(tmp_path / "index") as made:
        yield made
