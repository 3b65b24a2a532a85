"""Makes timm and segmentation_models_pytorch importable beside a torchvision built for another torch.

Both import torchvision for types alone. A torchvision whose compiled operators do not fit the installed torch (a CPU
torch beside the registry's torchvision, say) fails on import because the operators `nms` and `qnms` are unknown; once
their schemas exist the import succeeds. `torchvision.ops` and `torchvision.io` stay unusable and are not used.
"""

from __future__ import annotations

import sys

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[torch.library.Library] = []


def make_importable() -> None:
    """Import torchvision, declaring its missing operators first where that is necessary."""
    try:
        import torchvision
    except RuntimeError as err:
        if "torchvision::nms" not in str(err):
            raise
        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS.values():
            library.define(schema)
        _libraries.append(library)
        import torchvision  # noqa: F401


make_importable()
