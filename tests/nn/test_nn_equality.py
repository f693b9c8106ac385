"""A subnet inside the supernet equals the extracted network, bit for bit on CPU.

A GPU may sum up in another order for other strides.
"""

import pytest
import torch
from nn_nets import NETWORKS, archs, calibrated, images, make

from manyshot.nn.modes import gpu_products

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def same(one, other, dtype):
    if one.device.type == "cpu":
        return torch.equal(one, other)
    rounding = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    return torch.allclose(one, other, rtol=rounding, atol=rounding * float(other.abs().max()))


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        ("contiguous", torch.float64),
        ("channels_last", torch.float32),
        pytest.param("contiguous", torch.float32, marks=pytest.mark.slow),
        pytest.param("channels_last", torch.float64, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", NETWORKS)
def test_eval_logits_are_bit_equal(name, layout, dtype, device):
    net = make(name).to(device=device, dtype=dtype, memory_format=FORMATS[layout]).eval()
    batch = images(8, dtype=dtype).to(device).contiguous(memory_format=FORMATS[layout])
    for arch in archs(net, 3):
        stats = calibrated(net, arch, batch, batch.flip(0) * 2)
        subnet = net.extract(arch, stats=stats)
        with gpu_products("ieee"), torch.no_grad():
            for x in (batch, batch[:1].clone(memory_format=FORMATS[layout])):
                logits = net(x, arch, stats=stats)
                assert logits.dtype == dtype and torch.isfinite(logits).all()
                assert same(logits, subnet(x), dtype), (name, arch)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        pytest.param(name, layout, marks=() if i == j % 2 else pytest.mark.slow)
        for j, name in enumerate(NETWORKS)
        for i, layout in enumerate(("channels_last", "contiguous"))
    ],
)
def test_train_mode_logits_and_input_gradients_are_bit_equal(name, layout):
    net = make(name).to(memory_format=FORMATS[layout]).train()
    for arch in archs(net, 3):
        subnet = net.extract(arch)
        assert subnet.training
        outputs = []
        for run in (lambda x: net(x, arch), subnet):  # noqa: B023
            x = images(8).contiguous(memory_format=FORMATS[layout]).requires_grad_()
            logits = run(x)
            logits.square().sum().backward()
            outputs.append((logits, x.grad))
        assert torch.equal(outputs[0][0], outputs[1][0])
        assert torch.equal(outputs[0][1], outputs[1][1])


def test_the_weights_matter_to_the_comparison():
    # Guards the tests above: another weight, and another architecture, do change the logits.
    net, x = make("nasty").eval(), images(8)
    arch = net.space.largest
    stats = calibrated(net, arch, x)
    subnet = net.extract(arch, stats=stats)
    before = subnet(x)
    with torch.no_grad():
        for name, parameter in subnet.named_parameters():
            saved = parameter.detach().clone()
            parameter.mul_(1.5).add_(torch.randn_like(saved) * 0.1)
            assert not torch.equal(before, subnet(x)), name
            parameter.copy_(saved)
    assert torch.equal(before, subnet(x))


def test_parameter_gradients_equal_those_of_the_extracted_network():
    net = make("nasty").train()
    arch, x = net.space.smallest, images(8)
    subnet = net.extract(arch)
    net(x, arch).square().sum().backward()
    subnet(x).square().sum().backward()
    conv, small = net.model.stem[0], subnet.stem[0]
    assert torch.equal(conv.weight.grad[:8], small.weight.grad)
    assert torch.equal(conv.bias.grad[:8], small.bias.grad)
    tied, small_tied = net.model.tied.one, subnet.tied.one
    # Sum of two uses, added in another order: equal up to rounding in float32.
    torch.testing.assert_close(tied.weight.grad[:8, :8], small_tied.weight.grad)
    assert torch.equal(net.model.embed.weight.grad, subnet.embed.weight.grad)
