"""Judges a model on one split: few-shot accuracy on fixed episodes, retrieval by its embeddings, its categories."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from fsl_jax.algorithms.base import Algorithm, Variables
from fsl_jax.data.augment import Preprocess, prepare_episode
from fsl_jax.data.read import read_row
from fsl_jax.data.table import Table
from fsl_jax.evaluation import held_out, probe, report, retrieval
from fsl_jax.evaluation.categories import CategoryJudge
from fsl_jax.evaluation.episodes import EpisodeEvaluator, EpisodeFigures
from fsl_jax.evaluation.searching import Searcher
from fsl_jax.mesh import place, replicated
from fsl_jax.sampling import episodes as episode_sampling
from fsl_jax.sampling.episodes import EpisodePlan
from fsl_jax.sampling.keys import named_key
from fsl_jax.taxonomy import Taxonomy

EPISODES_AT_ONCE = 24
"""Episodes of one program; rounded up to a multiple of the devices. Results do not depend on it."""

LOOKED_AT = 4
"""Photos of which is shown where a vision transformer looks."""

Figures = dict[str, float]
MakeReader = Callable[[Table, EpisodePlan, jax.Array], object]


@dataclasses.dataclass
class Judge:
    """Judges variables on one split, each time on the same episodes and photos.

    Attributes:
      config: `config.eval`.
      algorithm: Whose predictions and embeddings are judged.
      table: Photos of the split, sorted by label.
      preprocess: How they are prepared.
      mesh: Devices.
      make_reader: From table, plan and key to a reader, as in training.
      searches: Further tables in which is searched, by name.
      taxonomy: Where the method classifies by categories and attributes; `table` then has the columns of
        `data.targets.with_targets`.
      pictures: The photos of `table` where that has their features alone; by default `table` itself.
    """

    config: ConfigDict
    algorithm: Algorithm
    table: Table
    preprocess: Preprocess
    mesh: Mesh
    make_reader: MakeReader
    searches: Mapping[str, Table] = dataclasses.field(default_factory=dict)
    taxonomy: Taxonomy | None = None
    pictures: Table | None = None

    def __post_init__(self) -> None:
        self._embed = jax.jit(self._embeddings)
        self.searcher = self._searcher(self.table)
        self._others = {name: self._searcher(table) for name, table in self.searches.items()}
        if self.judges_episodes:
            self._plan_episodes()
        elif not self.config.retrieval and self.taxonomy is None:
            raise ValueError(
                "config.eval.episodes is 0 and config.eval.retrieval False: nothing is left to judge"
            )

    @property
    def judges_episodes(self) -> bool:
        """Whether few-shot episodes are judged; without any, retrieval alone is."""
        return self.config.episodes > 0

    def _searcher(self, table: Table) -> Searcher:
        how = self.config.distance, self.config.same_domain_is_junk
        return Searcher(table, self._embed, self.preprocess, self.mesh, *how)

    def _plan_episodes(self) -> None:
        if self.algorithm.way not in (None, self.config.way):
            raise ValueError(
                f"config.eval.way is {self.config.way}, but this method's head has {self.algorithm.way} labels: "
                "train with the same --config.episode.way"
            )
        settings, devices = self.config, self.mesh.size
        at_once = -(-EPISODES_AT_ONCE // devices) * devices
        shape = {name: settings[name] for name in ("way", "shot", "queries", "group_by")}
        self.plan = episode_sampling.make(self.table, tasks=at_once, **shape)
        self._at_once = at_once

    @functools.cached_property
    def _on_episodes(self) -> EpisodeEvaluator:
        """Puts the split on the devices when it is first asked about."""
        reader = self.make_reader(self.table, self.plan, named_key(self.config.seed, "evaluate"))
        return EpisodeEvaluator(
            self.algorithm,
            reader,
            lambda episode: prepare_episode(episode, self.preprocess, None, None),
            mesh=self.mesh,
            at_once=self._at_once,
        )

    @functools.cached_property
    def _on_categories(self) -> CategoryJudge | None:
        """Classifies the split's photos; None where the method has no categories."""
        if self.taxonomy is None:
            return None
        return CategoryJudge(
            self.config,
            self.table,
            self.taxonomy,
            lambda variables, images: self.algorithm.outputs(variables, self.preprocess(images)),
            self.preprocess,
            self.mesh,
            None if self._shown.has_features else self._photo,
        )

    def _embeddings(self, variables: Variables, images: Array) -> Float[Array, "b d"]:
        return self.algorithm.outputs(variables, self.preprocess(images))["embedding"]

    def during(self, variables: Variables) -> Figures:
        """Returns the figures that are logged while a run goes on."""
        variables = self._here(variables)
        figures: Figures = {}
        if self.judges_episodes and self.config.episodes_during:
            few_shot = self._on_episodes(variables, episodes=self.config.episodes_during)
            figures = {"accuracy": few_shot.mean, "accuracy_ci95": few_shot.ci95}
        if self._on_categories is not None:
            figures |= self._on_categories.during(self._on_categories.count(variables))
        if self.config.retrieval:
            found, embeddings = self.searcher.search(variables)
            means = found.means()
            figures |= {name: means[name] for name in ("mAP", "R@1")}
            figures |= self._of_searches(variables)
            figures |= self._held_out(embeddings)
            if self.config.grid.during and self._cells():
                figures |= _grid_figures(self._grid(embeddings, *self._cells()))
        return figures

    def final(self, variables: Variables) -> tuple[dict[str, float | int | str | bool], list[report.Part]]:
        """Returns all figures of a result, and the pictures that go with them."""
        variables = self._here(variables)
        figures: dict[str, float | int | str | bool] = {}
        parts: list[report.Part] = []
        if self.judges_episodes:
            few_shot = self._on_episodes(variables, episodes=self.config.episodes)
            figures |= self._few_shot_figures(few_shot)
            parts += [] if self._shown.has_features else [self._episode_part(few_shot.predicted[0])]
        figures |= self.algorithm.facts()
        if self._on_categories is not None:
            counted = self._on_categories.count(variables)
            figures |= self._on_categories.figures(counted)
            parts += self._on_categories.parts(counted)
        if self.config.retrieval:
            found, embeddings = self.searcher.search(variables)
            means = found.means()
            counts = {
                f"retrieval_{name}": int(means.pop(name)) for name in ("queries", "queries_without_match")
            }
            figures |= {
                **means,
                **counts,
                "retrieval_distance": self.config.distance,
                "mAP_of_chance": self.searcher.base_rate(),
                **self._of_searches(variables),
                **self._held_out(embeddings),
            }
            parts += self._retrieval_parts(found, embeddings)
            parts += self._attention_parts(variables)
            if self._cells():
                grid = self._grid(embeddings, *self._cells())
                figures |= _grid_figures(grid)
                parts += _grid_parts(grid)
        return figures, parts

    def _few_shot_figures(self, few_shot: EpisodeFigures) -> dict[str, float | int]:
        settings = ("way", "shot", "queries", "episodes")
        return {
            "accuracy": few_shot.mean,
            "accuracy_ci95": few_shot.ci95,
            "chance": 1 / self.config.way,
            **{name: self.config[name] for name in settings},
        }

    def _of_searches(self, variables: Variables) -> Figures:
        """Returns the figures of the further searches, as "name/mAP"."""
        figures: Figures = {}
        for name, searcher in self._others.items():
            means = searcher.search(variables)[0].means()
            figures |= {f"{name}/{measure}": means[measure] for measure in ("mAP", "R@1")}
        return figures

    def _held_out(self, embeddings: Float[Array, "n d"]) -> Figures:
        """Classifies each photo by the embeddings of the split's other ones, where that is asked for."""
        settings = self.config.held_out
        if not settings.neighbours:
            return {}
        codes = held_out.codes_of(self.table, settings.level)
        figures = {
            "knn": held_out.weighted_knn(
                embeddings,
                codes,
                mesh=self.mesh,
                neighbours=settings.neighbours,
                temperature=settings.temperature,
            )
        }
        if settings.linear:
            figures["linear"] = held_out.linear_probe(
                named_key(self.config.seed, "linear"), embeddings, codes
            )
        return figures

    def _cells(self) -> tuple[tuple[int, ...], tuple[int, ...]] | tuple[()]:
        """Returns those ways and shots of the grid for which the split has labels and photos."""
        settings, counts = self.config.grid, self.table.label.counts()
        if not settings.ways:
            return ()
        shots = [
            shot for shot in settings.shots if (counts >= shot + settings.queries).sum() >= min(settings.ways)
        ]
        if not shots:
            return ()
        labels = (counts >= max(shots) + settings.queries).sum()
        return tuple(way for way in settings.ways if way <= labels), tuple(shots)

    def _grid(self, embeddings: Array, ways: tuple[int, ...], shots: tuple[int, ...]) -> probe.FewShotGrid:
        settings = self.config.grid
        return probe.few_shot_grid(
            named_key(self.config.seed, "grid"),
            embeddings,
            self.table.label.codes,
            ways=ways,
            shots=shots,
            queries=settings.queries,
            repetitions=settings.repetitions,
            distance=self.config.distance,
            classifiers=tuple(settings.classifiers),
            neighbours=settings.neighbours if "k-nn" in settings.classifiers else None,
        )

    def _here(self, variables: Variables) -> Variables:
        """Puts variables on all of the judge's devices; training may use fewer, where tasks do not spread evenly."""
        return place(variables, replicated(self.mesh))

    def _episode_part(self, predicted: np.ndarray) -> report.Part:
        key = named_key(self.config.seed, "evaluate")
        one = dataclasses.replace(self.plan, tasks=1)
        columns = self.plan.columns(self.table)
        rows = np.asarray(one.rows(columns, key, 0))
        images = np.stack([self._photo(row) for row in rows.reshape(-1)]).reshape(*rows.shape, *self._shape)
        names = [self.table.label.names[self.table.label.codes[row]] for row in rows[0, :, 0]]
        shot = self.plan.shot
        return report.episode_picture(
            "One test episode",
            images[0, :, :shot],
            images[0, :, shot:],
            predicted.reshape(self.plan.way, -1),
            names=names,
        )

    @property
    def _shown(self) -> Table:
        return self.table if self.pictures is None else self.pictures

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.preprocess.size, self.preprocess.size, self.preprocess.channels

    def _photo(self, row: int) -> np.ndarray:
        size, channels, fit = self.preprocess.size, self.preprocess.channels, self.preprocess.fit
        return read_row(self._shown, int(row), size=size, channels=channels, fit=fit)  # type: ignore[arg-type]

    def _retrieval_parts(
        self, found: retrieval.PerQuery, embeddings: Float[Array, "n d"]
    ) -> list[report.Part]:
        strips = [] if self._shown.has_features else self._strips(found, embeddings)
        curve = report.precision_recall_curve(found.precision_at_recall())
        return [*strips, curve, *self._by_category(found, self.searcher.sides[0])]

    def _attention_parts(self, variables: Variables) -> list[report.Part]:
        """Shows where a vision transformer looks, on the first photo of some labels."""
        if self._shown.has_features or self.table.has_features or not len(self.table):
            return []
        rows = np.unique(self.table.label.codes, return_index=True)[1][:LOOKED_AT]
        images: Any = np.stack([self._photo(row) for row in rows])
        looks = self.algorithm.outputs(variables, self.preprocess(images)).get("attention")
        if looks is None:
            return []
        names = [self.table.label.names[self.table.label.codes[row]] for row in rows]
        return [
            report.attention_strip(f"Where the network looks: {name}", image, look)
            for name, image, look in zip(names, images, np.asarray(looks, np.float32), strict=True)
        ]

    def _strips(self, found: retrieval.PerQuery, embeddings: Float[Array, "n d"]) -> list[report.Strip]:
        queries, gallery = self.searcher.sides
        shown = gallery if gallery is not None else queries
        k = min(8, len(shown) - (gallery is None))
        if not found.has_match.any() or k < 1:
            return []
        nearest = self.searcher.nearest(embeddings, k=k)
        return report.strips_of_queries(
            found.average_precision,
            nearest.row,
            query_labels=self.table.label.codes[queries],
            gallery_labels=self.table.label.codes[shown],
            names=self.table.label.names,
            query_image=lambda row: self._photo(int(queries[row])),
            gallery_image=lambda row: self._photo(int(shown[row])),
            worst=5,
            best=3,
        )

    def _by_category(self, found: retrieval.PerQuery, queries: np.ndarray) -> list[report.Part]:
        if not self.table.levels:
            return []
        name, level = next(iter(self.table.levels.items()))
        categories = np.array([*level.names, "unknown"])[level.codes[queries]]
        means = retrieval.metrics_by_category(found, categories)
        bars = {str(category): (m["mAP"], int(m["queries"])) for category, m in means.items()}
        return [report.bars_by_category(f"mAP by {name}", bars)]


def _grid_figures(grid: probe.FewShotGrid) -> Figures:
    """Names each cell "frozen/<classifier>/<way>way_<shot>shot", and its interval the same with "_ci95" behind."""
    figures: Figures = {}
    for row in grid.rows():
        name = f"frozen/{row['classifier']}/{row['way']}way_{row['shot']}shot"
        figures |= {name: row["accuracy"], f"{name}_ci95": row["ci95"]}
    return figures


def _grid_parts(grid: probe.FewShotGrid) -> list[report.Part]:
    """Shows a heat map for each classifier, and a table with the intervals."""
    maps: list[report.Part] = [
        report.Grid(
            f"Frozen embeddings, {name}: accuracy by way and shot",
            [f"{shot}-shot" for shot in grid.shots],
            [f"{way}-way" for way in grid.ways],
            grid.mean[i],
            ".1%",
        )
        for i, name in enumerate(grid.classifiers)
    ]
    cells = {
        f"{row['classifier']}, {row['way']}-way {row['shot']}-shot": f"{row['accuracy']:.1%} ± {row['ci95'] * 100:.1f}"
        for row in grid.rows()
    }
    title = f"Frozen embeddings, {grid.accuracies.shape[-1]} repetitions, 95 % intervals"
    return [*maps, report.Figures(title, cells)]
