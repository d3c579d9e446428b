"""What kind of folder holds the KV: a dump of the llm_bench contract (meta files), or plain tensors."""

from __future__ import annotations

from pathlib import Path

from h2o_gate_plugin.errors import ConfigError, DumpError
from h2o_gate_plugin.kv.dump import Dump, read_dump
from h2o_gate_plugin.offline.settings import Layout, WordDtype
from h2o_gate_plugin.offline.tensor_folder import read_tensor_folder, tensor_paths
from h2o_gate_plugin.offline.tensor_names import EXAMPLES


def read_source(folder: Path, layout: Layout | None = None, dtype: WordDtype | None = None) -> Dump:
    """List what can be evaluated. A folder with meta files is a dump, and nothing else in it is read.

    Raises DumpError for a missing folder or one with nothing to list, ConfigError for a layout or dtype that a dump does not take or that
    tensors need.
    """
    if not folder.is_dir() or any(folder.rglob("meta_*.json")):
        for option, value in (("--layout", layout), ("--dtype", dtype)):
            if value is not None:
                raise ConfigError(f"offline: {option}: expected none for a dump, whose meta files say it, got {value!r}; leave it out")
        return read_dump(folder)
    if not tensor_paths(folder):
        raise DumpError(
            f"{folder}: dump: expected meta_t<start>_<end>.json files (MNN_KV_DUMP_DIR), or .npy or .safetensors files with names like "
            f"{EXAMPLES}, got neither{_foreign(folder)}"
        )
    return read_tensor_folder(folder, layout, dtype)


def _foreign(folder: Path) -> str:
    """A file that may be meant and is not read, because opening it can run code or it holds many arrays."""
    found = sorted(path.name for path in folder.rglob("*") if path.suffix in (".pt", ".pth", ".bin", ".pkl", ".npz"))
    return f", but {found[0]}; save it as safetensors or .npy" if found else "; dump or export again"
