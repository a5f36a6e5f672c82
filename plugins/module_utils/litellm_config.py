# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""LiteLLM's configuration file: the image's own, the operator's changes over it, and what this collection needs in it."""

from __future__ import annotations

import json
import re
from typing import Any

from .engine import Engine
from .errors import ScutumError
from .override import LITELLM_CONFIG_IN_IMAGE, merge
from .yaml_text import render

HEAD = "# Written by scutum.ops (role install): the image's configuration with scutum_litellm_config merged over it.\n"
# The image's own Python reads the YAML, since LiteLLM needs the library and the host need not have it.
_AS_JSON = f"import json, yaml; print(json.dumps(yaml.safe_load(open({LITELLM_CONFIG_IN_IMAGE!r})) or {{}}))"


def from_image(engine: Engine, image: str) -> dict[str, Any]:
    """The configuration that is baked into a LiteLLM image; empty when there is none."""
    result = engine.run(
        *("run", "--rm", "--network", "none", "--entrypoint", "python3", image, "-c", _AS_JSON), timeout=60
    )
    if result.rc != 0:
        if "No such file" in result.err:
            return {}
        raise ScutumError(
            f"cannot read {LITELLM_CONFIG_IN_IMAGE} in {image}: {result.err.strip()[-300:]}",
            left="no container was changed",
            next_step="set the whole configuration in scutum_litellm_config and report the image",
        )
    return dict(json.loads(result.out))


def build(baked: dict[str, Any], changes: dict[str, Any]) -> str:
    """The text of the file.

    Mappings are merged recursively, a list in the operator's part replaces the image's. The callback `prometheus` is
    always there: /metrics/ is where the signals come from.
    """
    config = merge(baked, changes)
    settings = dict(config.get("litellm_settings") or {})
    callbacks = settings.get("callbacks") or []
    callbacks = [callbacks] if isinstance(callbacks, str) else list(callbacks)
    if "prometheus" not in callbacks:
        callbacks.append("prometheus")
    settings["callbacks"] = callbacks
    config["litellm_settings"] = settings
    return HEAD + render(config)


_SECRET_KEY = re.compile(r"(key|secret|password|token|credentials?|database_url)$", re.IGNORECASE)


def problems_with(changes: dict[str, Any]) -> list[str]:
    """What in the operator's part has a type that LiteLLM cannot read."""
    settings = changes.get("litellm_settings")
    if settings is not None and not isinstance(settings, dict):
        return ["scutum_litellm_config.litellm_settings has to be a mapping"]
    callbacks = (settings or {}).get("callbacks")
    if callbacks is not None and not isinstance(callbacks, (str, list)):
        return ["scutum_litellm_config.litellm_settings.callbacks has to be a name or a list of names"]
    return []


def literal_secrets(changes: Any, path: str = "scutum_litellm_config") -> dict[str, str]:
    """Secrets that the operator's part holds itself, by place; LiteLLM reads `os.environ/NAME` from its environment."""
    found: dict[str, str] = {}
    items = changes.items() if isinstance(changes, dict) else enumerate(changes) if isinstance(changes, list) else ()
    for key, value in items:
        where = f"{path}.{key}"
        if isinstance(value, str) and _SECRET_KEY.search(str(key)) and not value.startswith("os.environ/"):
            found[where] = value
        found.update(literal_secrets(value, where))
    return found
