"""What `ms.convert` makes of networks that people have: a row per network, as Markdown.

    python -m benchmarks.conversion              # of torchvision, and of timm if it is installed
    python -m benchmarks.conversion resnet18 timm:efficientnet_b0

Weights are random, with statistics and scales as of a trained network, so that nothing is zero.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from typing import Any

import torch
import torchvision
from torch import nn

import manyshot as ms

TORCHVISION = (
    "resnet18 resnext50_32x4d regnet_y_400mf densenet121 googlenet squeezenet1_1 vgg11_bn "
    "shufflenet_v2_x1_0 mnasnet1_0 mobilenet_v3_small efficientnet_b0 convnext_tiny vit_b_16 swin_t"
)
TIMM = (
    "resnet50 regnety_004 efficientnet_b0 tf_efficientnetv2_b0 mobilenetv4_conv_small ghostnet_100 "
    "repvit_m1 mobileone_s0 fastvit_t8 convnextv2_atto vit_tiny_patch16_224 edgenext_xx_small"
)
HEAD = ("network", "widths", "heads", "depths", "fixed", "share", "difference", "CPU s")


def main() -> None:
    """Converts networks and prints a row for each."""
    parser = argparse.ArgumentParser(description="What ms.convert makes of networks.")
    parser.add_argument("names", nargs="*", help="such as resnet18 or timm:efficientnet_b0")
    names = parser.parse_args().names
    torch.set_num_threads(1)
    if not names:
        has_timm = importlib.util.find_spec("timm") is not None
        names = [*TORCHVISION.split(), *(f"timm:{name}" for name in TIMM.split() if has_timm)]
    print("|".join(("", *HEAD, "")))
    print("|".join(("", *("---" for _ in HEAD), "")))
    for name in names:
        print("|".join(("", *row(name), "")), flush=True)


def row(name: str) -> list[str]:
    """One network: how many decisions of each kind, what stayed, and how long it took."""
    model = network(name)
    started = time.process_time()
    net = ms.convert(model, torch.randn(2, 3, 224, 224))
    seconds = time.process_time() - started
    done: Any = net.conversion
    kinds = [decision.kind for decision in done.decisions]
    counts = [str(kinds.count(kind)) for kind in ("width", "heads", "depth")]
    return [name, *counts, str(len(done.fixed)), f"{done.share:.0%}", f"{done.difference:.0e}",
            f"{seconds:.1f}"]  # fmt: skip


@torch.no_grad()
def network(name: str) -> nn.Module:
    """A network by its name, with no scale that is constant and statistics as after training."""
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    if name.startswith("timm:"):
        import timm

        model = timm.create_model(name.removeprefix("timm:"))
    else:
        options = {"init_weights": False} if name == "googlenet" else {}
        model = torchvision.models.get_model(name, **options)
    for parameter in model.parameters():
        if parameter.numel() > 1 and parameter.eq(parameter.flatten()[0]).all():
            parameter.uniform_(0.5, 1.0)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    network: nn.Module = model.eval()
    return network


if __name__ == "__main__":
    main()
