"""K-shot NAS in your own loop: four copies of the weights, mixed by a code per path."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

import manyshot as ms


def main(epochs: int = 40, seed: int = 0) -> tuple[float, float]:
    """Trains weights and codes; returns the spread of the codes and a test accuracy."""
    torch.manual_seed(seed)
    splits = ms.data.load("digits", seed=seed)
    look: dict[str, Any] = {"mean": splits.mean, "std": splits.std, "seed": seed}
    sharing = ms.sharing.KShot(4, m=2, init=ms.zoo.tiny, seed=seed)
    net = ms.Supernet(ms.zoo.tiny(), sharing=sharing, input_shape=splits.image_shape)

    codes = sharing.code_optimizer(lr=0.1, momentum=0.9)
    assert codes is not None
    own = {id(parameter) for group in codes.param_groups for parameter in group["params"]}
    rest = [p for p in net.parameters() if id(p) not in own]
    weights = torch.optim.SGD(rest, 0.1, momentum=0.9)

    rng = np.random.default_rng(seed)
    batches = ms.data.Batches(splits.train, 64, **look)
    steps, step = epochs * len(batches), 0
    for epoch in range(epochs):
        for images, labels in batches.epoch(epoch):
            phase = sharing.phase(step, steps)  # warmup, then weights, and code now and then
            chunks = sharing.chunks if phase == "code" else 1
            for x, y in zip(images.chunk(chunks), labels.chunk(chunks), strict=True):
                logits = net(x, net.space.sample(rng), phase=phase)
                (len(y) / len(labels) * F.cross_entropy(logits, y)).backward()
            (codes if phase == "code" else weights).step()
            net.zero_grad(set_to_none=True)  # a code step discards the gradients of weights
            step += 1

    archs = list(net.space.enumerate())
    with torch.no_grad():
        spread = ms.sharing.spread(sharing.code(archs))
        print(f"codes vary by {spread:.3f} over paths; two of them:")
        for arch in (archs[0], archs[-1]):
            print(f"  {net.space.to_text(arch)}: {sharing.code([arch])[0].numpy().round(2)}")

    arch = net.space.largest
    calibration = ms.data.fixed(splits.train, 512, 256, **look)
    stats = ms.evaluate.calibrate(net, arch, calibration)
    subnet = net.extract(arch, stats=stats)  # the mixture is baked in: plain torch.nn modules
    test = ms.evaluate.score_module(subnet, ms.data.fixed(splits.test, None, 256, **look)).value
    print(f"{net.space.to_text(arch)}: test accuracy {test:.1%}")
    return spread, test


if __name__ == "__main__":
    main()
