"""Of the LoRA that tests import: which layers it changes, and tokens to compare it on."""

import torch

ABOVE_TAP = [1, 2, 3]
TOKENS = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(1))
