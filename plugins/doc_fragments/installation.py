# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation shared by the modules that work on an installation."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragments, by name."""

    DIRECTORY = r"""
options:
  directory:
    description:
      - The directory of the installation, as an absolute path. It holds C(config/.env).
      - Its name is the name of the Compose project.
    type: path
    required: true
"""

    DOCUMENTATION = r"""
options:
  version:
    description:
      - One exact release, such as V(0.1.0).
    type: str
    required: true
requirements:
  - Docker Engine 20.10 or newer with Compose 2.24.4 or newer on the host, except where a module says otherwise
"""
