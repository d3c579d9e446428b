"""Names of files inside files: which may leave their folder, and which may not.

May: base_dir and absolute names of a bench config (by the contract: the engine joins ``base_dir + value``, and a generated config lies
elsewhere), presets and packs that a pack names (configuration that the user wrote), links in a model folder (Hugging Face's cache is made
of them). May not: what a dump, a checkpoint's index, a kept measurement or a prompt manifest names: such files come from others.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from h2o_gate_plugin.bench.dump import load_dump
from h2o_gate_plugin.bench.measurement import load_measurement
from h2o_gate_plugin.bench.prompt_set import load_prompt_set
from h2o_gate_plugin.errors import ConfigError
from h2o_gate_plugin.kv.dump import read_dump
from h2o_gate_plugin.outside_file import inside
from h2o_gate_plugin.runtime.bench_config import read_bench_config
from h2o_gate_plugin.runtime.weights import find_weights
from tests.unit.bad_input.readers import READERS

OUTSIDE = ("../secret.txt", "/etc/hostname", "sub/../../secret.txt", "link/secret.txt", "link.txt")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder beside a secret, with links that lead to it."""
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "inside"
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path)
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    return folder


def _changed(folder: Path, reader: str, change: Callable[[Any], None]) -> Path:
    path = folder / READERS[reader].make(folder)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("name", OUTSIDE)
def test_inside_refuses_every_way_out(name: str, place: Path) -> None:
    with pytest.raises(ValueError, match="outside"):
        inside(place, name)
    assert inside(place, "sub/../a.txt") == place / "sub/../a.txt"


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("key", ["config_path", "trace", "log_path", "stdout_path", "source"])
def test_a_measurement_names_files_of_its_own_folder(key: str, name: str, place: Path) -> None:
    def change(document: Any) -> None:
        record = document["processes"][0]
        holder = record["result"] if key.endswith("_path") and key != "config_path" else record["rows"][0] if key == "source" else record
        holder[key] = f"../{name}" if key == "source" and not name.startswith("/") else name

    with pytest.raises(ConfigError, match="outside"):
        load_measurement(_changed(place, "measurement_json", change))


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_dump_that_was_measured_lies_in_its_own_folder(name: str, place: Path) -> None:
    path = _changed(place, "dump_json", lambda document: document.update(folder=name))
    with pytest.raises(ConfigError, match="outside"):
        load_dump(path.parent)


@pytest.mark.parametrize("name", ["../../../secret.txt", "/etc/hostname"])
@pytest.mark.parametrize("key", ["k_file", "v_file"])
def test_a_dumps_meta_names_files_of_the_dump(key: str, name: str, place: Path) -> None:
    _changed(place, "dump_meta", lambda meta: meta.update({key: name}))
    (skipped,) = read_dump(place).skipped
    assert skipped.reason == "unsafe_path"


def test_a_dumps_meta_is_no_link_out_of_it(place: Path) -> None:
    READERS["dump_meta"].make(place)
    (place.parent / "other.json").write_text('{"password": "hunter2"}')
    (place / "run" / "layer_0" / "meta_t24_36.json").symlink_to(place.parent / "other.json")
    (skipped,) = read_dump(place).skipped
    assert skipped.reason == "unsafe_path"
    assert "hunter2" not in skipped.message


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_prompt_manifest_names_files_below_its_own_folder(name: str, place: Path) -> None:
    (place / "set.yaml").write_text(f"prompts: [{{bucket: 128, file: {name}}}]")
    with pytest.raises(ConfigError, match=r"set\.yaml:1: prompt file: expected one in the manifest's folder"):
        load_prompt_set(place / "set.yaml", "--prompts")


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/hostname", "sub/x.safetensors", "..", "a\\b", "a\0b"])
def test_a_shard_is_a_plain_name(name: str, place: Path) -> None:
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ConfigError, match="expected the plain name of a file in this folder"):
        find_weights(place)


def test_a_base_dir_may_lie_anywhere(place: Path) -> None:
    config = place / "config.json"
    config.write_text(json.dumps({"base_dir": str(place.parent)}))
    assert read_bench_config(config).model_folder == place.parent.resolve()
