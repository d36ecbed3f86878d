"""What a config file sweeps: items, checks against the config, command lines, names of folders."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fsl_jax import sweep
from fsl_jax.sweep import chained, expand, folder_names, product, shortened, zipped

CONFIG = """
from fsl_jax.config import base_config
from fsl_jax.sweep import chained, product, zipped
from ml_collections.config_dict import placeholder
import numpy as np


def get_config(preset=""):
    if preset not in ("", "small"):
        raise ValueError(f"no preset {{preset!r}}")
    config = base_config()
    config.extra = placeholder(float)
    config.listed = [1, 2]
    config.train.steps = 10 if preset == "small" else 1000
    return config


def get_sweep(preset=""):
    return {items}
"""


@pytest.fixture
def swept(tmp_path):
    """Expands what a config's get_sweep returns, given as source."""

    def runs(items, *, preset="", **options):
        file = tmp_path / "swept.py"
        file.write_text(CONFIG.format(items=items))
        return expand(f"{file}:{preset}" if preset else str(file), tmp_path / "root", **options)

    return runs


def settings_of(runs):
    return [run.settings for run in runs]


def test_a_product_has_every_combination_and_the_last_axis_is_fastest():
    assert [*product({"a": (1, 2), "b": ["xy"]}, {"seed": range(2)})] == [
        {"a": 1, "b": "xy", "seed": 0},
        {"a": 1, "b": "xy", "seed": 1},
        {"a": 2, "b": "xy", "seed": 0},
        {"a": 2, "b": "xy", "seed": 1},
    ]
    assert len([*product({"a": np.logspace(-4, -1, 4)}, {"b": iter((1, 2, 3))})]) == 12


def test_products_take_other_sweeps():
    pairs = zipped({"a": (1, 2), "b": (3, 4)})
    assert [*product(pairs, {"c": (5,)})] == [{"a": 1, "b": 3, "c": 5}, {"a": 2, "b": 4, "c": 5}]
    assert [*chained(zipped({"a": (1,)}), [{"b": 2}])] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: product({"a": "text"}), r"'a' is given 'text': give a list of values, such as \['text'\]"),
        (lambda: product({"a": 3}), "'a' is given 3: give a list"),
        (lambda: product({"a": ()}), "'a' has no values"),
        (lambda: product({"a": (1,)}, {"a": (2,)}), "'a' is in two parts"),
        (lambda: zipped({"a": (1, 2), "b": (1,)}), r"differ in length \(a 2, b 1\)"),
    ],
)
def test_what_is_no_axis_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        [*make()]


def test_a_run_has_its_command_its_folder_and_its_whole_config(swept, tmp_path):
    run, _ = swept(
        "product({'optimizer.learning_rate': (1e-3, 1e-2)})", preset="small", more=["--cpu_devices=2"]
    )
    assert run.name == "learning_rate=0.001"
    assert run.workdir == tmp_path / "root" / run.name
    assert run.arguments == (
        "--config",
        f"{tmp_path / 'swept.py'}:small",
        "--config.optimizer.learning_rate=0.001",
        "--cpu_devices=2",
        f"--workdir={run.workdir}",
    )
    assert run.command.startswith("python -m fsl_jax.main --config ")
    assert (run.config["train"]["steps"], run.config["optimizer"]["learning_rate"]) == (10, 0.001)


def test_overrides_hold_for_all_and_stand_before_what_is_swept(swept):
    runs = swept("[{'seed': 0}, {'seed': 1}]", overrides=["--config.train.steps=5"])
    assert [run.config["train"]["steps"] for run in runs] == [5, 5]
    assert runs[1].arguments[2:4] == ("--config.train.steps=5", "--config.seed=1")


def test_seeds_are_multiplied_with_the_sweep(swept):
    assert settings_of(swept("[{'train.steps': 5}, {'train.steps': 6}]", seeds=2)) == [
        {"train.steps": 5, "seed": 0},
        {"train.steps": 5, "seed": 1},
        {"train.steps": 6, "seed": 0},
        {"train.steps": 6, "seed": 1},
    ]
    with pytest.raises(ValueError, match="has seeds of its own: leave --seeds out"):
        swept("[{'seed': 3}]", seeds=2)


def test_seeds_alone_need_no_get_sweep(tmp_path):
    assert [run.name for run in expand("maml:smoke", tmp_path, seeds=3)] == ["seed=0", "seed=1", "seed=2"]
    with pytest.raises(ValueError, match=r"maml:smoke has no get_sweep\(preset\).*or give --seeds"):
        expand("maml:smoke", tmp_path)


def test_a_swept_preset_is_given_behind_the_colon(swept, tmp_path):
    runs = swept("product({'preset': ('', 'small'), 'seed': (0,)})")
    assert [run.arguments[1] for run in runs] == [
        str(tmp_path / "swept.py"),
        f"{tmp_path / 'swept.py'}:small",
    ]
    assert [run.config["train"]["steps"] for run in runs] == [1000, 10]
    assert runs[1].settings == {"preset": "small", "seed": 0}


def test_items_that_come_to_the_same_config_run_once(swept):
    runs = swept("chained([{'train.steps': 1000}], [{'seed': 0}], product({'seed': (0, 1)}))")
    assert settings_of(runs) == [{"train.steps": 1000}, {"seed": 1}]


VALUES = {
    "seed": np.int64(7),
    "optimizer.learning_rate": np.float32(0.5),
    "optimizer.weight_decay": 1,
    "optimizer.final": 1e-30,
    "augment.flip": True,
    "data.root": "/photos of 'mine', \"yours\" = --all/ü",
    "data.source": "",
    "eval.split": "None",
    "eval.top_k": [1, 5],
    "eval.grid.ways": (),
    "eval.grid.shots": range(1, 3),
    "eval.grid.classifiers": ("a,b", "c'd"),
    "optimizer.rules": (("body/.*", 0.0), ("head", 2.5)),
    "data.csv_manifest.levels": ("one",),
    "model.head": {"sizes": (3,), "output": "none"},
    "extra": -2.0,
}
READ = """
import json, sys
from fsl_jax import main
print(json.dumps(main.configured(sys.argv)[0].to_dict(), default=list))
"""


def test_every_kind_of_value_reaches_the_trainer_as_it_is(swept, tmp_path):
    (run,) = swept(f"[{VALUES!r}]", overrides=["--config.train.steps=30"])
    assert run.settings == {path: sweep.plain(value) for path, value in VALUES.items()}
    done = subprocess.run(
        [sys.executable, "-c", READ, *run.arguments], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == run.config
    assert run.config["data"]["root"] == VALUES["data.root"]
    assert run.config["optimizer"]["rules"] == [["body/.*", 0.0], ["head", 2.5]]
    assert run.config["model"]["head"] == {"sizes": [3], "output": "none"}


def test_none_stays_what_it_is_and_is_never_written(swept):
    (run,) = swept("[{'extra': None, 'seed': 1}]")
    assert run.settings == {"extra": None, "seed": 1}
    assert not any(argument.startswith("--config.extra") for argument in run.arguments)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("[{'seed': 0}, {'train.stesp': 5}]", "item 2 .*'train.stesp': 5.*did you mean 'train.steps'"),
        ("[{'config.seed': 0}]", "item 1 .*write 'seed', without 'config.'"),
        ("[{'seed': 0.5}]", "item 1 .*seed takes int, not 0.5 .float."),
        ("[{'seed': True}]", "seed takes int, not True .bool."),
        ("[{'seed': '1'}]", "seed takes int, not '1' .str."),
        ("[{'augment.flip': 1}]", "augment.flip takes bool, not 1 .int."),
        ("[{'data.root': 1}]", "data.root takes str, not 1"),
        ("[{'eval.top_k': 5}]", "eval.top_k takes tuple, not 5"),
        ("[{'seed': None}]", "seed cannot be set to None on a command line"),
        ("[{'listed': (1,)}]", "listed takes list, which no command line can give"),
        ("[{'optimizer.rules': (float('inf'),)}]", "cannot be given on a command line"),
        ("[{'optimizer.learning_rate': float('nan')}]", "cannot be given on a command line"),
        ("[{'preset': 'huge'}]", "item 1 .*no preset 'huge'"),
        ("[{'preset': 3}]", "preset is 3: give the text behind the config's colon"),
        ("[{'model.head.dropout': 0.1, 'model.head': {}}]", "it will overwrite the value"),
        ("[{'seed': 0}, 3]", "item 2 of the sweep is 3: give values by config path"),
        ("[]", "gives nothing"),
    ],
)  # fmt: skip
def test_an_item_that_does_not_fit_is_named_and_refused(swept, items, message):
    with pytest.raises(ValueError, match=message):
        swept(items)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.train.stesp=5", "no config option 'train.stesp'.*did you mean 'train.steps'"),
        ("--config.train.steps=many", "--config.train.steps=many: invalid literal"),
        ("--config.seed=5", "seed is swept: leave --config.seed=5 out"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(swept, override, message):
    with pytest.raises(ValueError, match=message):
        swept("[{'seed': 0}]", overrides=[override])


def test_a_file_without_configs_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match=r"empty.py has no get_config\(preset\)"):
        expand(str(tmp_path / "empty.py"), tmp_path, seeds=1)
    with pytest.raises(ValueError, match="no config 'mmal'"):
        expand("mmal", tmp_path, seeds=1)


def test_get_sweep_must_take_the_preset(tmp_path):
    file = tmp_path / "swept.py"
    file.write_text(CONFIG.format(items="[{}]").replace('get_sweep(preset="")', "get_sweep()"))
    with pytest.raises(ValueError, match=r'write get_sweep\(preset: str = ""\)'):
        expand(f"{file}:small", tmp_path)
    assert [run.name for run in expand(str(file), tmp_path)] == ["defaults"]


def test_paths_are_cut_to_what_tells_them_apart():
    assert shortened(["a.way", "b.way", "b.seed", "seed", "c.d.e"]) == {
        "a.way": "a.way",
        "b.way": "b.way",
        "b.seed": "b.seed",
        "seed": "seed",
        "c.d.e": "e",
    }


def test_names_are_readable_and_safe():
    settings = [
        {"optimizer.learning_rate": 1e-5, "augment.flip": False, "seed": 3},
        {"data.root": "/a b/../ü:*?", "eval.top_k": (1, 5), "x": -1.5},
    ]
    assert folder_names(settings, {}) == [
        "learning_rate=1e-05,flip=False,seed=3",
        "root=-a-b-..-,top_k=1-5,x=-1.5",
    ]


def test_names_that_would_be_the_same_get_digits_of_their_settings():
    settings = [
        {"a": "x/y"},
        {"a": "x y"},
        {"a": "X-Y"},
        {"a": 0.1},
        {"a": 0.1 + 1e-12},
        {"a": "b" * 300},
        {"a": 1},
    ]
    names = folder_names(settings, {})
    assert len({name.lower() for name in names}) == len(settings)
    assert names[-1] == "a=1"
    assert all(
        len(name) == len(set_name) + 9
        for name, set_name in zip(names[:3], ("a=x-y", "a=x-y", "a=X-Y"), strict=True)
    )
    assert max(map(len, names)) == sweep.LONGEST_NAME + 9
    assert folder_names(settings[::-1], {}) == names[::-1]


def test_known_runs_keep_their_names_and_no_other_run_gets_one():
    known = {sweep.canonical({"episode.way": 5}): "way=5"}
    assert folder_names([{"episode.way": 5}, {"eval.way": 5}], known) == ["way=5", "eval.way=5"]
    (name,) = folder_names([{"eval.way": 5}], known)
    assert name.startswith("way=5~")


def test_a_sweep_grows_and_keeps_what_it_had(swept, tmp_path):
    root = tmp_path / "root"
    sweep.write_sweep(root, "swept.py", [], swept("[{'episode.way': 5}]"), {"way=5": "12_0"})
    later = swept("[{'episode.way': 5}, {'episode.way': 5, 'eval.way': 20}]")
    sweep.write_sweep(root, "swept.py", [], later)
    runs = sweep.read_sweep(root)["runs"]
    assert [run["name"] for run in runs] == ["way=5", "episode.way=5,eval.way=20"]
    assert runs[0]["settings"] == {"episode.way": 5}
    assert runs[0]["command"] == later[0].command
    assert sweep.known_jobs(root) == {"way=5": "12_0"}


def test_another_sweep_in_the_same_root_is_refused(tmp_path):
    runs = expand("maml:smoke", tmp_path, seeds=1)
    steps = "--config.train.steps=20"
    sweep.write_sweep(tmp_path, "maml:smoke", ["--config.eval.every=5"], runs)
    given = tmp_path, "maml:smoke", ["--config.eval.every=5", steps], runs
    sweep.check_root(*given)  # more steps continue what is there
    for config, overrides in (("maml", given[2]), ("reptile:smoke", given[2]), ("maml:smoke", [])):
        with pytest.raises(
            ValueError, match=r"holds a sweep of maml:smoke --config.eval.every=5: choose another"
        ):
            sweep.check_root(tmp_path, config, overrides, runs)
    same_file = str(Path(sweep.config_file("maml")).resolve())
    sweep.check_root(tmp_path, f"{same_file}:smoke", given[2], runs)


def test_a_run_of_another_config_is_refused_with_the_difference(tmp_path):
    run, _ = expand("maml:smoke", tmp_path, seeds=2)
    run.workdir.mkdir()
    (run.workdir / "config.json").write_text(json.dumps({**run.config, "seed": 9}))
    with pytest.raises(ValueError, match=r"seed=0 was made with another config \(seed: 9 -> 0\)"):
        sweep.check_root(tmp_path, "maml:smoke", [], [run])


def test_a_result_of_fewer_steps_is_unfinished(tmp_path):
    assert sweep.state_of(tmp_path) == "not started"
    (tmp_path / "config.json").write_text(json.dumps({"train": {"steps": 20}}))
    assert sweep.state_of(tmp_path) == "unfinished"
    (tmp_path / "result.json").write_text(json.dumps({"steps": 20}))
    assert sweep.state_of(tmp_path) == "done"
    assert sweep.state_of(tmp_path, steps=30) == "unfinished"
    (tmp_path / "failed.json").write_text("{}")
    assert sweep.state_of(tmp_path) == "failed"


CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@pytest.mark.parametrize(
    ("config", "count"), [("protonet.py", 9), ("protonet.py:features", 9), ("triplet.py:smoke", 21)]
)
def test_the_configs_own_sweeps_fit_their_configs(tmp_path, config, count):
    runs = expand(str(CONFIGS / config), tmp_path)
    assert len(runs) == count
    assert {run.settings["seed"] for run in runs} == {0, 1, 2}
    assert all("smoke" in run.config["preset"] for run in runs if "smoke" in config)


def test_every_config_with_a_sweep_is_tested_here():
    assert {file.name for file in CONFIGS.glob("*.py") if "def get_sweep" in file.read_text()} == {
        "protonet.py",
        "triplet.py",
    }
