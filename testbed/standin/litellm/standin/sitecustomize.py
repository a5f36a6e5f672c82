"""Loaded by every Python of the stand-in: when LiteLLM's proxy is imported, the spend callback and 0.4.0's fault join it.

Operators mount a configuration of their own over the image's, so this must not depend on the file.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from typing import Any

PROXY = "litellm.proxy.proxy_server"


class _Hook(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != PROXY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            import spend

            spend.join(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if os.environ.get("SCUTUM_STANDIN_VERSION"):
    sys.meta_path.insert(0, _Hook())
