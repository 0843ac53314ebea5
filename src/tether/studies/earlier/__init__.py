"""Earlier and other ways to steer a text-to-image model by a picture, each one class in one file.

| family                | what it is                                                             | trained           |
|-----------------------|------------------------------------------------------------------------|-------------------|
| `concatenated`        | condition channels beside the latents, as in LDM                       | the whole U-Net   |
| `controlnet-unlocked` | a ControlNet whose U-Net is not locked                                 | both              |
| `t2i-adapter`         | features of the condition alone, added to encoder blocks               | the adapter       |
| `edge-guidance`       | gradients of a predictor of edges from the U-Net's features            | the predictor     |
| `controlnet-xs`       | a small copy that sees the U-Net's features at every block             | the small copy    |
| `control-lora`        | condition channels beside the latents, low-rank changes of every layer | those, and the hint |

Importing this package registers them. They are the methods, made for one base and a small budget, and not their
authors' programs: each module says where it is simpler than its paper.
"""

from tether.studies.earlier.adapter import Adapter
from tether.studies.earlier.concatenated import Concatenated
from tether.studies.earlier.edge_guidance import EdgeGuidance
from tether.studies.earlier.lora import ControlLora
from tether.studies.earlier.small_copy import SmallCopy
from tether.studies.earlier.unlocked import UnlockedControlNet

__all__ = ["Adapter", "Concatenated", "ControlLora", "EdgeGuidance", "SmallCopy", "UnlockedControlNet"]
