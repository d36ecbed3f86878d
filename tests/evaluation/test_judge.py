"""The judge: fixed episodes whatever the devices, embeddings of every photo, and who is searched in whom."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import table_of_counts
from sklearn.metrics import average_precision_score

from fsl_jax.algorithms import maml, protonet
from fsl_jax.building import sample_episode
from fsl_jax.config import base_config
from fsl_jax.data.augment import Preprocess
from fsl_jax.data.resident import ResidentReader
from fsl_jax.data.table import Coded
from fsl_jax.evaluation import report
from fsl_jax.evaluation.embed import embed_table, photo_blocks
from fsl_jax.evaluation.episodes import EpisodeFigures
from fsl_jax.evaluation.judge import Judge
from fsl_jax.mesh import data_mesh
from fsl_jax.models.conv4 import Conv4

PREPROCESS = Preprocess(size=8, channels=1, fit="pad", mean=(0.5,), std=(0.5,))
METHOD = protonet.make(
    Conv4(filters=4, reduction="stride", readout="mean", norm="running", formulation="lax"), way=3
)


@pytest.fixture(scope="module")
def variables():
    return METHOD.init(jax.random.key(0), sample_episode((8, 8, 1)))


def judge_of(table, devices, searches=None, **changes):
    config = base_config().eval
    config.update({"way": 3, "shot": 1, "queries": 2, "episodes": 30, "episodes_during": 10, **changes})
    config.grid.update({"ways": (2, 3, 50), "shots": (1, 2, 60), "repetitions": 5})
    mesh = data_mesh(devices)
    return Judge(
        config,
        METHOD,
        table,
        PREPROCESS,
        mesh,
        lambda table, plan, key: ResidentReader.of(table, plan, key, mesh),
        searches or {},
    )


@pytest.fixture(scope="module")
def table():
    table = table_of_counts([4, 5, 3, 6])
    levels = {"category": Coded.of(["shoe" if code < 2 else "" for code in table.label.codes])}
    return dataclasses.replace(table, levels=levels)


@pytest.fixture(scope="module")
def judged(table, variables):
    return [judge_of(table, devices).final(variables) for devices in (1, 8)]


def embeddings(table, variables):
    return np.asarray(METHOD.outputs(variables, PREPROCESS(table.images))["embedding"], np.float64)


def test_figures_do_not_depend_on_the_number_of_devices(judged):
    one, eight = (figures for figures, _ in judged)
    assert one.keys() == eight.keys()
    for name, value in one.items():
        assert value == (pytest.approx(eight[name], abs=1e-5) if isinstance(value, float) else eight[name])


def test_map_is_scikit_learns_of_every_photo_among_the_others(judged, table, variables):
    unit = embeddings(table, variables)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    codes, scores = table.label.codes, unit @ unit.T
    others = ~np.eye(len(table), dtype=bool)
    precisions = [
        average_precision_score(codes[others[i]] == codes[i], scores[i][others[i]]) for i in range(len(table))
    ]
    assert judged[0][0]["mAP"] == pytest.approx(np.mean(precisions), abs=1e-4)


def test_the_base_rate_is_the_share_of_matches(judged, table):
    counts = table.label.counts()
    expected = np.mean([(counts[code] - 1) / (len(table) - 1) for code in table.label.codes])
    assert judged[0][0]["mAP_of_chance"] == pytest.approx(expected)


def test_accuracy_is_the_share_of_queries_nearest_to_their_prototype(table, variables):
    judge = judge_of(table, 1)
    figures = judge._on_episodes(variables, episodes=30)
    rows = np.concatenate([judge.plan.rows(*_columns_and_key(judge), call) for call in range(2)])[:30]
    embedded = embeddings(table, variables)
    for task, of_task in enumerate(rows):
        centres = embedded[of_task[:, 0]]
        for label in range(3):
            for query in range(2):
                distances = ((embedded[of_task[label, 1 + query]] - centres) ** 2).sum(1)
                assert figures.predicted[task, 2 * label + query] == distances.argmin()
    np.testing.assert_array_equal(figures.labels, [[0, 0, 1, 1, 2, 2]] * 30)


def _columns_and_key(judge):
    constant = judge._on_episodes._reader.constant
    return constant.columns, constant.key


def test_roles_say_who_is_searched_in_whom(table, variables):
    role = np.where(np.arange(len(table)) % 2 == 0, "gallery", "query")
    found, _ = judge_of(dataclasses.replace(table, role=role), 1).searcher.search(variables)
    assert len(found.has_match) == (role == "query").sum()


def mean_precision(scores, relevant, allowed):
    kept = [(s[a], r[a]) for s, r, a in zip(scores, relevant, allowed, strict=True) if r[a].any()]
    return np.mean([average_precision_score(r, s) for s, r in kept])


def test_further_searches_are_logged_under_their_names(table, variables):
    half = table.take(np.arange(len(table)) < 12)
    judge = judge_of(table, 1, searches={"whole": table, "half": half}, episodes=0)
    during, (final, _) = judge.during(variables), judge.final(variables)
    assert "accuracy" not in during
    assert during["whole/mAP"] == during["mAP"] == final["whole/mAP"]
    unit = embeddings(half, variables)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    same = half.label.codes[:, None] == half.label.codes[None]
    expected = mean_precision(unit @ unit.T, same, ~np.eye(len(half), dtype=bool))
    assert final["half/mAP"] == pytest.approx(expected, abs=1e-4)


def test_photos_of_the_querys_own_camera_can_be_junk(table, variables):
    role = np.where(np.arange(len(table)) % 2 == 0, "gallery", "query")
    camera = Coded.of([str(i % 3) for i in range(len(table))])
    seen = dataclasses.replace(table, role=role, domain=camera)
    found, _ = judge_of(seen, 1, same_domain_is_junk=True).searcher.search(variables)
    unit = embeddings(table, variables)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    query, gallery, codes = role == "query", role == "gallery", table.label.codes
    same = codes[query][:, None] == codes[gallery][None]
    junk = same & (camera.codes[query][:, None] == camera.codes[gallery][None])
    expected = mean_precision((unit @ unit.T)[query][:, gallery], same, ~junk)
    assert found.means()["mAP"] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match="does not say where its photos come from"):
        judge_of(table, 1, same_domain_is_junk=True)


def test_something_must_be_judged(table):
    with pytest.raises(ValueError, match="nothing is left to judge"):
        judge_of(table, 1, episodes=0, retrieval=False)


def test_the_report_has_every_part(judged):
    kinds = [type(part) for part in judged[0][1]]
    assert kinds.count(report.EpisodePicture) == 1
    assert kinds.count(report.Strip) == 8
    assert kinds.count(report.Bars) == 1
    assert kinds.count(report.Grid) == 4  # one a classifier
    assert report.render("Demo", judged[0][1])


def test_the_grid_leaves_out_ways_and_shots_that_the_split_cannot_fill(judged):
    cells = {name for name in judged[0][0] if name.startswith("frozen/prototype/")}
    names = {f"frozen/prototype/{way}way_{shot}shot" for way in (2, 3) for shot in (1, 2)}
    assert cells == names | {f"{name}_ci95" for name in names}


@pytest.mark.parametrize("devices", [1, 8])
def test_every_photo_is_embedded_once_also_in_the_last_block(table, variables, devices):
    embed = jax.jit(lambda images: METHOD.outputs(variables, PREPROCESS(images))["embedding"])
    got = embed_table(embed, table, PREPROCESS, mesh=data_mesh(devices), block=4)
    np.testing.assert_allclose(got, embeddings(table, variables), atol=1e-5)


def test_blocks_have_one_size(table):
    blocks = list(photo_blocks(table, PREPROCESS, mesh=data_mesh(1), block=7))
    assert [len(block) for block in blocks] == [7, 7, 7]
    np.testing.assert_array_equal(np.concatenate(blocks)[: len(table)], table.images)


def test_the_interval_is_of_the_mean_over_episodes():
    predicted = np.array([[0, 1], [0, 0], [1, 1], [0, 1]])
    figures = EpisodeFigures(predicted, np.array([[0, 1]] * 4))
    assert figures.mean == 0.75
    # Accuracies 1, 0.5, 0.5, 1: standard deviation 0.2887.
    assert figures.ci95 == pytest.approx(1.96 * 0.288675 / 2, rel=1e-4)


def test_a_single_episode_has_no_interval():
    assert np.isnan(EpisodeFigures(np.zeros((1, 2)), np.zeros((1, 2))).ci95)


def test_a_head_of_another_way_is_refused(table):
    method = maml.make(METHOD.network, way=4, inner_rate=0.1, inner_steps=1, eval_inner_steps=1)
    with pytest.raises(ValueError, match=r"config.eval.way is 3, but this method's head has 4 labels"):
        Judge(base_config_of(3), method, table, PREPROCESS, data_mesh(1), lambda *_: None)


def base_config_of(way):
    config = base_config().eval
    config.update({"way": way, "queries": 2})
    return config
