"""Detectors with weights: shipped, installed once, or the user's own. Kinds call them by what they find.

| detector | finds                     | weights                                                              |
|----------|---------------------------|----------------------------------------------------------------------|
| pose     | bodies, hands, faces      | shipped                                                              |
| lines    | straight lines            | shipped                                                              |
| mask     | the main object           | shipped                                                              |
| hed      | soft edges                | `tether detectors install hed`                                       |
| depth    | depth and normals         | your own: `tether detectors use depth NAME`, a model of transformers |
| seg      | the classes of ADE20K     | your own: `tether detectors use seg NAME`, a model of transformers   |
| lineart  | line art                  | your own: `tether detectors use lineart FILE`                        |
"""

from __future__ import annotations

from tether.detectors.store import DETECTORS, Detector, check_installed, hash_own, location, remove, store_folder, use

__all__ = ["DETECTORS", "Detector", "check_installed", "hash_own", "location", "remove", "store_folder", "use"]
