"""What a run looks up before it trains."""

import dataclasses

import numpy as np
import pytest
from helpers import table_of_counts

from fsl_jax.config import base_config
from fsl_jax.data.table import Attributes
from fsl_jax.presets import metric_learning
from fsl_jax.run import searched


def table_with(brands):
    table = table_of_counts([2, 2], side=4, channels=3)
    names = tuple(f"brand={brand}" for brand in ("Aurelio", "Other"))
    values = np.array([[f"brand={brand}" == name for name in names] for brand in brands])
    return dataclasses.replace(table, split=np.full(4, "test"), attributes=Attributes(values, names))


def test_a_search_takes_the_photos_that_match():
    found = searched(
        base_config(), table_with(["Aurelio", "Other", "Aurelio", "Other"]), "test:brand=Aurelio"
    )
    assert len(found) == 2


def test_a_search_that_finds_nothing_says_so_unless_it_may():
    without = dataclasses.replace(table_with(["Other"] * 4), attributes=None)
    for photos, said in (
        (without, "no column 'brand'"),
        (table_with(["Other"] * 4), "no photo of 4 matches"),
    ):
        with pytest.raises(ValueError, match=said):
            searched(base_config(), photos, "test:brand=Aurelio")
        assert searched(base_config(), photos, "test?:brand=Aurelio") is None


def test_the_presets_own_search_is_left_out_of_other_photos():
    where = metric_learning().eval.searches.unseen_brand
    assert len(searched(base_config(), table_with(["Aurelio"] * 4), where)) == 4
    assert searched(base_config(), table_with(["Other"] * 4), where) is None
