"""What a run was: its settings, what determines what it leaves, and what it ran on."""

import dataclasses
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from experiments.hardware import settled
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.files import write_text

PACKAGES = ("ilo_jax", "jax", "flax", "numpy", "transformers", "tokenizers", "safetensors")
"""Packages whose versions are written down."""


def versions() -> dict[str, str]:
    """The versions of what computes."""
    return {"python": platform.python_version()} | {p: version(p) for p in PACKAGES}


def surroundings() -> dict[str, Any]:
    """The versions and devices that computed something."""
    devices = [device.device_kind for device in jax.local_devices()]
    return {"versions": versions(), "devices": devices, "processes": jax.process_count()}


def leave_config(
    workdir: Path,
    config: Any,
    key: Mapping[str, Any],
    *,
    corpus: Parallel | None = None,
    took: Mapping[str, Any] | None = None,
) -> None:
    """Write WORKDIR/config.json, by the first process only.

    It holds "config", the settings, `settled` by the devices that there are; "key"; "corpus", which
    languages, how many sentences and how many lines were left out; and "ran_on", `surroundings` and
    what it took.

    Args:
        workdir: The run folder.
        config: The job's Config.
        key: What determines the results beside the settings: digests of what they name.
        corpus: What was read of the aligned sentences; None: nothing was.
        took: What it took, such as seconds; None: nothing is told.

    Raises:
        OSError: If it cannot be written.
    """
    if jax.process_index():
        return
    ran_on = surroundings() | dict(took or {})
    read = corpus and {
        "languages": list(corpus.languages),
        "sentences": len(corpus.sentences[0]),
        "left_out": corpus.dropped,
    }
    settings = dataclasses.asdict(settled(config))
    whole = {"config": settings, "key": key, "corpus": read, "ran_on": ran_on}
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(workdir / "config.json", json.dumps(whole, indent=2, ensure_ascii=False))
