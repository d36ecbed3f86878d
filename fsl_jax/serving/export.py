"""Exports a model, preprocessing inside, for programs that know nothing of fsl_jax.

From a trained run or published weights to a StableHLO artifact of `jax.export`, an ONNX model, or the weights alone as
safetensors. What was made is read back and compared with the live model before any file is seen.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.util
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export as jax_export
from jax.extend import core
from jaxtyping import Array, UInt8

import fsl_jax
from fsl_jax import embedder, run
from fsl_jax.algorithms.base import Variables
from fsl_jax.config import as_json
from fsl_jax.data.augment import Preprocess
from fsl_jax.data.cache import write_whole
from fsl_jax.data.read import Fit
from fsl_jax.lookup import closest
from fsl_jax.models import pretrained
from fsl_jax.ops.backend import portable
from fsl_jax.predictor import probabilities
from fsl_jax.taxonomy import Taxonomy
from fsl_jax.types import Collections

Outputs = dict[str, Array]
Read = Callable[[UInt8[np.ndarray, "b h w c"]], Mapping[str, Any]]
"""An export that was read back: from photos to outputs by name."""

NEEDS = {
    "stablehlo": (("flatbuffers",), "export"),
    "onnx": (("jax2onnx", "onnxruntime"), "onnx"),
    "safetensors": (("safetensors",), "export"),
}
"""Packages of each format, and the extra that has them."""
PLATFORMS = ("cpu", "cuda", "tpu")
BATCHES = (1, 3)
"""Numbers of photos that an export is checked with."""
TOLERANCE = 1e-5
BFLOAT16_TOLERANCE = 2e-2
"""With 8 binary digits, formulations that add up in another order differ in the third decimal place."""
INPUT, EMBEDDING, ATTRIBUTES = "images", "embedding", "attributes"
KEY = "fsl_jax"
"""Under which ONNX and safetensors files carry what `about` says, as JSON."""
_HELD_IN_FILE = ("onnx", "safetensors")
# Of the checks that `jax.export` makes of the number of photos; any reader of StableHLO with symbolic shapes has it.
_KNOWN_CALLS = frozenset({"shape_assertion"})


@dataclasses.dataclass(frozen=True)
class Served:
    """A model as it is served.

    Attributes:
      outputs: From variables and uint8 photos to "embedding" and, where the method has them, the probabilities of each
        level, by the level's name, and of the "attributes".
      variables: {"params": ...} and other collections; NumPy arrays.
      preprocess: How photos are prepared; `outputs` does it.
      taxonomy: Names of the levels and attributes.
      model: Where it is from, such as {"published": "efficientnet_lite0", "fit": "pad"}.
      config: Of the run.
      labels: Labels that the run was trained on.
    """

    outputs: Callable[[Collections, UInt8[Array, "b h w c"]], Outputs]
    variables: Collections
    preprocess: Preprocess
    taxonomy: Taxonomy | None = None
    model: Mapping[str, str] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    labels: int | None = None

    @property
    def digest(self) -> str:
        """Checksum of weights, preprocessing and options, as an `Embedder` of the same model has it."""
        options = {} if self.config is None else embedder.options_of(self.config)
        return embedder.digest_of(self.variables, self.preprocess, options=options)

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Returns what the columns of each output of probabilities stand for, from coarse to fine."""
        if self.taxonomy is None:
            return {}
        levels = {level.name: level.names for level in self.taxonomy.levels}
        return levels | ({ATTRIBUTES: self.taxonomy.attributes} if self.taxonomy.attributes else {})

    def photos(self, count: Any) -> jax.ShapeDtypeStruct:
        """Returns the shape of so many photos."""
        how = self.preprocess
        return jax.ShapeDtypeStruct((count, how.size, how.size, how.channels), jnp.uint8)


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
      files: The model, and what lies beside it.
      outputs: Names.
      error: Largest difference from the live model, as a share of the output's largest value.
      code: Python lines that load and call it.
    """

    files: tuple[Path, ...]
    outputs: tuple[str, ...]
    error: float
    code: str


def served_run(workdir: Path) -> Served:
    """Loads a run's best checkpoint.

    Raises:
      ValueError: There is no run in the workdir, it was trained on features, or a level has the name of an output.
    """
    trained, learned = run.restored(workdir)
    taxonomy = trained.taxonomy
    levels = [level.name for level in taxonomy.levels] if taxonomy is not None else []
    for name in (INPUT, EMBEDDING, ATTRIBUTES):
        if name in levels:
            raise ValueError(f"level {name!r} of {workdir} has the name of another output: rename the column")

    def outputs(variables: Collections, images: Array) -> Outputs:
        collections = {name: values for name, values in variables.items() if name != "params"}
        given = Variables(params=variables["params"], collections=collections)
        found = trained.algorithm.outputs(given, trained.preprocess(images))
        named = probabilities(found)
        # A method may know levels that it does not predict.
        result = {EMBEDDING: found["embedding"], **dict(zip(levels, named.get("levels", ()), strict=False))}
        return result | ({ATTRIBUTES: named["attributes"]} if "attributes" in named else {})

    variables = {"params": learned.params, **learned.collections}
    return Served(
        outputs,
        jax.tree.map(np.asarray, variables),
        trained.preprocess,
        taxonomy,
        {"workdir": workdir.resolve().name, "method": trained.config.algorithm.name},
        as_json(trained.config),
        trained.labels,
    )


def served_published(name_or_path: str, *, fit: str) -> Served:
    """Loads published weights; see `models.pretrained.load`.

    Args:
      name_or_path: Such as "efficientnet_lite0", or a file.
      fit: As in `embedder.published`.

    Raises:
      ValueError: There are no such weights, or no such fit.
    """
    if fit not in get_args(Fit):
        raise ValueError(f"no fit {fit!r}; {closest(fit, list(get_args(Fit)))}")
    loaded = pretrained.load(name_or_path)
    preprocess = dataclasses.replace(loaded.preprocess, fit=fit)

    def outputs(variables: Collections, images: Array) -> Outputs:
        embedding, _ = loaded.model.apply(variables, preprocess(images), statistics="running")
        return {EMBEDDING: embedding}

    variables = jax.tree.map(np.asarray, loaded.variables)
    return Served(outputs, variables, preprocess, model={"published": Path(name_or_path).name, "fit": fit})


def export(make: Callable[[], Served], *, kind: str, out: Path, force: bool) -> Exported:
    """Exports a model, and checks it; the files are written whole or not at all.

    Args:
      make: Loads the model; called once all else is known to be right.
      kind: "stablehlo", "onnx" or "safetensors".
      out: A file that ends in the kind, or a folder, for "model." and the kind in it.
      force: Whether files that are there are replaced.

    Raises:
      OSError: The files cannot be written.
      ValueError: The kind is unknown, a package is missing, a file is there, the model cannot be exported, or what
        was exported computes something else than the model.
    """
    _check_kind(kind)
    file = _file(out, kind)
    header = None if kind in _HELD_IN_FILE else file.with_suffix(".json")
    there = [str(path) for path in (file, header) if path is not None and path.exists()]
    if there and not force:
        raise ValueError(
            f"{' and '.join(there)} is there already: choose another --out, or replace it with --force"
        )
    served = make()
    told = about(served, kind)
    content, read = _MAKE[kind](served, told)
    error = checked(read, served, kind)
    if header is None:
        write_whole(file, lambda stream: stream.write(content))
    else:
        told |= {"sha256": hashlib.sha256(content).hexdigest(), "largest_error": error}
        _write_both(file, content, header, (json.dumps(told, indent=2) + "\n").encode())
    files = (file,) if header is None else (file, header)
    return Exported(files, tuple(told["outputs"]), error, loading_code(kind, file, served.preprocess))


def _check_kind(kind: str) -> None:
    if kind not in NEEDS:
        raise ValueError(f"no format {kind!r}; {closest(kind, list(NEEDS))}")
    packages, extra = NEEDS[kind]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"--format {kind} needs {' and '.join(missing)}: pip install 'fsl_jax[{extra}]'")


def _file(out: Path, kind: str) -> Path:
    if out.is_dir() or not out.suffix:
        return out / f"model.{kind}"
    if out.suffix != f".{kind}":
        raise ValueError(
            f"--out {out} ends in {out.suffix!r}; expected .{kind} for --format {kind}, or a folder"
        )
    return out


def _write_both(file: Path, content: bytes, header: Path, described: bytes) -> None:
    """Writes a model and its header; a full disk is met before either of them is seen."""

    def write(stream: BinaryIO) -> None:
        stream.write(content)
        stream.flush()
        write_whole(header, lambda beside: beside.write(described))

    write_whole(file, write)


def about(served: Served, kind: str) -> dict[str, Any]:
    """Says what a program must know that calls an exported model; plain JSON values."""
    shapes = jax.eval_shape(served.outputs, served.variables, served.photos(1))
    outputs = [name for name in (EMBEDDING, *served.names) if name in shapes]
    return {
        "format": f"fsl_jax {kind} 1",
        "fsl_jax": fsl_jax.__version__,
        "jax": jax.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "model": dict(served.model),
        "input": {"name": INPUT, "dtype": "uint8", "shape": ["batch", *served.photos(1).shape[1:]]},
        "outputs": {name: ["batch", *shapes[name].shape[1:]] for name in outputs},
        "names": {name: list(names) for name, names in served.names.items() if name in shapes},
        "taxonomy": None if served.taxonomy is None else served.taxonomy.as_json(),
        "labels": served.labels,
        "preprocess": dataclasses.asdict(served.preprocess),
        "digest": served.digest,
        "config": served.config,
    }


def checked(read: Read, served: Served, kind: str) -> float:
    """Compares an export with the live model on random photos, in batches of two sizes, on the CPU.

    Args:
      read: The export, read back.
      served: The live model.
      kind: For messages.

    Returns:
      The largest difference of any output, as a share of the output's largest value.

    Raises:
      ValueError: It is larger than the tolerance, outputs or shapes differ, or the model gives NaN.
    """
    tolerance = BFLOAT16_TOLERANCE if _rounds_to_bfloat16(served) else TOLERANCE
    rng, worst, how = np.random.default_rng(0), 0.0, served.preprocess
    with jax.default_device(_cpu()):
        live = jax.jit(served.outputs)
        for count in BATCHES:
            photos = rng.integers(0, 256, (count, how.size, how.size, how.channels), dtype=np.uint8)
            expected = jax.tree.map(np.asarray, live(served.variables, photos))
            found = {name: np.asarray(values) for name, values in read(photos).items()}
            shapes = [{name: values.shape for name, values in part.items()} for part in (found, expected)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"the {kind} export gives {shapes[0]}, the model {shapes[1]}; nothing was written"
                )
            for name, values in expected.items():
                if not np.isfinite(values).all():
                    raise ValueError(
                        f"the model gives {name} that are not finite: train it again; nothing was written"
                    )
                error = _difference(found[name], values)
                if not error <= tolerance:
                    raise ValueError(
                        f"the {kind} export differs from the model in {name!r} by {error:.1e} of the largest value; "
                        f"expected at most {tolerance:.0e}; nothing was written"
                    )
                worst = max(worst, error)
    return worst


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    largest = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    return float(np.abs(found - expected).max()) / largest


def _cpu() -> jax.Device:
    """Returns the device on which everything that is compared computes in float32."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise ValueError(
            "an export is checked on the CPU, which JAX_PLATFORMS leaves out: add cpu to it"
        ) from error


def _rounds_to_bfloat16(served: Served) -> bool:
    return "bf16[" in str(jax.make_jaxpr(served.outputs)(served.variables, served.photos(1)))


def _stablehlo(served: Served, told: dict[str, Any]) -> tuple[bytes, Read]:
    """Makes a serialized `jax.export` artifact of all platforms, with the weights and any number of photos."""
    del told
    (batch,) = jax_export.symbolic_shape("batch")

    def model(images: Array) -> Outputs:
        return served.outputs(served.variables, images)

    with portable():
        exported = jax_export.export(jax.jit(model), platforms=PLATFORMS)(served.photos(batch))
    foreign = foreign_parts(exported.mlir_module())
    if foreign:
        raise ValueError(f"this model computes with {', '.join(foreign)}, which no other machine need have")
    content = bytes(exported.serialize())
    return content, jax.jit(jax_export.deserialize(bytearray(content)).call)


def foreign_parts(module: str) -> list[str]:
    """Lists what a StableHLO module has that only the machine understands on which it was made.

    Example:
      >>> foreign_parts('stablehlo.custom_call @lapack_sgetrf(%1) {inlineable = "false"}')
      ['custom call lapack_sgetrf', 'attribute inlineable']
    """
    calls = set(re.findall(r"custom_call\s+@\"?([\w.$:]+)", module)) - _KNOWN_CALLS
    attributes = ["attribute inlineable"] if "inlineable" in module else []
    return [*(f"custom call {name}" for name in sorted(calls)), *attributes]


def _safetensors(served: Served, told: dict[str, Any]) -> tuple[bytes, Read]:
    """Lays the variables down by their names, joined by "/"; they are read back with the same package."""
    import safetensors.numpy

    named = traverse_util.flatten_dict(served.variables, sep="/")
    arrays = {name: np.ascontiguousarray(value) for name, value in named.items()}
    content = safetensors.numpy.save(arrays, metadata={KEY: json.dumps(told)})
    again = traverse_util.unflatten_dict(safetensors.numpy.load(content), sep="/")
    live = jax.jit(served.outputs)
    return content, lambda photos: live(again, photos)


def _onnx(served: Served, told: dict[str, Any]) -> tuple[bytes, Read]:
    """Converts by jax2onnx; read back by onnxruntime."""
    if _rounds_to_bfloat16(served):
        raise ValueError(
            "this model computes in bfloat16, which ONNX runtimes lack: --format stablehlo keeps it"
        )
    import jax2onnx
    import onnxruntime

    names = list(told["outputs"])
    (batch,) = jax_export.symbolic_shape("batch")
    photos = served.photos(batch)
    with portable():
        traced = jax.make_jaxpr(lambda images: _in_order(served.outputs(served.variables, images), names))(
            photos
        )

    def model(images: Array) -> tuple[Array, ...]:
        return tuple(evaluated(traced.jaxpr, traced.consts, [images]))

    try:
        with _silent("onnx_ir"):
            converted = jax2onnx.to_onnx(
                model, [photos], model_name=KEY, input_names=[INPUT], output_names=names
            )
        entry = converted.metadata_props.add()
        entry.key, entry.value = KEY, json.dumps(told)
        content = converted.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # the errors of onnxruntime have no base of their own
        said = " ".join(str(error).split())[:300]
        raise ValueError(
            f"this model cannot be converted to ONNX ({type(error).__name__}: {said}): take --format stablehlo"
        ) from error
    return content, lambda images: dict(zip(names, session.run(names, {INPUT: images}), strict=True))


def _in_order(outputs: Outputs, names: Sequence[str]) -> tuple[Array, ...]:
    return tuple(outputs[name] for name in names)


@contextlib.contextmanager
def _silent(logger: str) -> Iterator[None]:
    """Keeps a package's warnings from the terminal; what it makes is checked afterwards."""
    level = logging.getLogger(logger).level
    logging.getLogger(logger).setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger(logger).setLevel(level)


# Parameter of the program inside; where only derivatives or batching are custom, the program is all there is to it.
_INSIDE = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
}


def evaluated(jaxpr: core.Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Evaluates a program so that jax2onnx can convert it, in operations that it knows.

    jax2onnx knows no custom batching, makes a sequence of int8 for which ONNX has no operation, and pads no array
    whose first axis is symbolic. So programs inside are opened, what does not depend on the arguments is computed
    at once, and padding is written as `jnp.pad`.
    """
    known: dict[core.Var, Any] = {
        **dict(zip(jaxpr.constvars, constants, strict=True)),
        **dict(zip(jaxpr.invars, arguments, strict=True)),
    }
    for equation in jaxpr.eqns:
        given = [part.val if isinstance(part, core.Literal) else known[part] for part in equation.invars]
        known |= dict(zip(equation.outvars, _results(equation, given), strict=True))
    return [part.val if isinstance(part, core.Literal) else known[part] for part in jaxpr.outvars]


def _results(equation: core.JaxprEqn, given: list[Any]) -> list[Any]:
    name = equation.primitive.name
    if name in _INSIDE:
        inside = equation.params[_INSIDE[name]]
        return evaluated(inside.jaxpr, inside.consts, given)
    sides = [side for part in equation.outvars for side in getattr(part.aval, "shape", ())]
    is_constant = not any(isinstance(part, jax.core.Tracer) for part in given)
    if is_constant and all(isinstance(side, int) for side in sides):
        with jax.ensure_compile_time_eval():
            found = equation.primitive.bind(*given, **equation.params)
    elif name == "pad":
        found = _padded(*given, **equation.params)
    else:
        found = equation.primitive.bind(*given, **equation.params)
    return list(found) if equation.primitive.multiple_results else [found]


def _padded(array: Array, value: Any, *, padding_config: Sequence[tuple[int, int, int]]) -> Array:
    """Does what `lax.pad` does; pads below 0 cut."""
    if any(between for _, _, between in padding_config):
        raise NotImplementedError("padding between neighbours has no ONNX operation")
    cut = tuple(slice(max(-low, 0), high if high < 0 else None) for low, high, _ in padding_config)
    pads = [(max(low, 0), max(high, 0)) for low, high, _ in padding_config]
    return jnp.pad(array[cut], pads, constant_values=float(value))


_MAKE: dict[str, Callable[[Served, dict[str, Any]], tuple[bytes, Read]]] = {
    "stablehlo": _stablehlo,
    "onnx": _onnx,
    "safetensors": _safetensors,
}

_CODE = {
    "stablehlo": """\
import json
from pathlib import Path

import jax
import numpy as np
from jax import export

about = json.loads(Path({header}).read_text())
model = jax.jit(export.deserialize(bytearray(Path({file}).read_bytes())).call)
photos = np.zeros({shape}, np.uint8)
outputs = model(photos)
""",
    "onnx": """\
import json

import numpy as np
import onnxruntime

model = onnxruntime.InferenceSession({file})
about = json.loads(model.get_modelmeta().custom_metadata_map["fsl_jax"])
photos = np.zeros({shape}, np.uint8)
names = list(about["outputs"])
outputs = dict(zip(names, model.run(names, {{"images": photos}})))
""",
    "safetensors": """\
import json

from safetensors import safe_open

with safe_open({file}, framework="numpy") as file:
    about = json.loads(file.metadata()["fsl_jax"])
    variables = {{name: file.get_tensor(name) for name in file.keys()}}
""",
}


def loading_code(kind: str, file: Path, preprocess: Preprocess) -> str:
    """Returns Python lines that load an export, and call it on two black photos.

    They need jax, onnxruntime or safetensors, and nothing of fsl_jax.
    """
    shape = (2, preprocess.size, preprocess.size, preprocess.channels)
    # JSON's quotes are Python's, too.
    quoted, header = (json.dumps(str(path), ensure_ascii=False) for path in (file, file.with_suffix(".json")))
    return _CODE[kind].format(file=quoted, header=header, shape=shape)
