"""Input resolution: what is resized, what is not, and where gradients go."""

import pytest
import torch
from nn_masked import policies
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.export import to_onnx, to_pt2
from manyshot.nn.resize import PlainResize, resized

MODES = ["bilinear", "bicubic"]
SIDES = (6, 8, 12)


class Resized(nn.Module):
    def __init__(self, mode="bicubic", sides=SIDES):
        super().__init__()
        self.resize = ms.nn.Resize(ms.choose(sides, "side"), mode)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(torch.relu(self.conv(self.resize(x))).mean((2, 3)))


def images(side=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn((4, 3, side, side), generator=generator, dtype=dtype)


def seeded(make, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ms.Supernet(make(**options))


@pytest.mark.parametrize("mode", MODES)
def test_images_of_the_chosen_side_are_untouched(mode):
    x = images()
    assert resized(x, 8, mode) is x
    assert ms.nn.Resize(8, mode)(x) is x
    net = seeded(Resized, mode=mode)
    with net.selecting((1,)):
        assert net.model.resize(x) is x


def cubic(t):
    """Keys' kernel with a = -1/2, of antialiased images."""
    t = t.abs()
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


def triangle(t):
    return (1 - t.abs()).clamp(min=0)


@pytest.mark.parametrize(("mode", "kernel"), [("bilinear", triangle), ("bicubic", cubic)])
@pytest.mark.parametrize("side", [6, 12])
def test_interpolation_is_antialiased_and_corners_are_not_aligned(side, mode, kernel):
    x, scale = images(8, torch.float64), 8 / side
    at = (torch.arange(side) + 0.5).double() * scale
    places = (torch.arange(8) + 0.5).double()
    weights = kernel((places - at[:, None]) / max(scale, 1.0))  # wider where it shrinks
    weights = weights / weights.sum(1, keepdim=True)
    expected = weights @ x @ weights.T
    # torch computes the positions of weights in the images' type: 1e-15
    torch.testing.assert_close(resized(x, side, mode), expected, rtol=1e-10, atol=1e-10)


def test_an_image_that_is_not_square_becomes_square():
    x = images()[..., :6]
    assert resized(x, 8, "bicubic").shape == (4, 3, 8, 8)
    assert resized(x, 6, "bicubic").shape == (4, 3, 6, 6)


@pytest.mark.parametrize("mode", MODES)
def test_extracted_network_is_equal_bit_for_bit(mode):
    net = seeded(Resized, mode=mode)
    for option, side in enumerate(SIDES):
        plain = net.extract((option,))
        assert type(plain.resize) is PlainResize
        assert (plain.resize.side, plain.resize.mode) == (side, mode)
        assert torch.equal(plain(images()), net(images(), (option,)))


@pytest.mark.parametrize("masks", ["full", "active"])
def test_only_the_chosen_side_gets_a_gradient(masks):
    net = seeded(Resized).double()
    (side,) = net.space.decisions
    for option, pixels in enumerate(SIDES):
        given = policies(net, (option,))
        out = net(images(dtype=torch.float64), (option,), policy=given, masks=masks)
        assert torch.equal(out, net(images(dtype=torch.float64), (option,)))
        out.square().sum().backward()
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        small = resized(images(dtype=torch.float64), pixels, "bicubic") * scale
        hidden = torch.relu(F.conv2d(small, net.model.conv.weight, net.model.conv.bias))
        net.model.head(hidden.mean((2, 3))).square().sum().backward()
        expected = torch.zeros(3, dtype=torch.float64)
        expected[option] = scale.grad
        # float64, the same products
        torch.testing.assert_close(given[side].grad, expected, rtol=1e-12, atol=1e-12)
        assert scale.grad != 0


def test_a_side_of_two_decisions():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.resize = ms.nn.Resize(ms.choose((2, 3), "patches") * ms.choose((2, 4), "patch"))

        def forward(self, x):
            return self.resize(x).mean((2, 3))

    net = ms.Supernet(Two()).double()
    x = images(dtype=torch.float64)
    for arch in net.space.enumerate():
        given = policies(net, arch)
        out = net(x, arch, policy=given)
        assert torch.equal(out, net(x, arch))
        out.sum().backward()
        for policy, option in zip(given.values(), arch, strict=True):
            # the image times both entries: each gets the whole sum
            expected = torch.zeros(2).double()
            expected[option] = out.detach().sum()
            torch.testing.assert_close(policy.grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("mode", "sides"), [("bicubic", (4, 6)), ("bicubic", (8, 12)), ("bilinear", (6, 8))]
)
@pytest.mark.parametrize("option", [0, 1])
def test_exported_networks_resize(mode, sides, option, tmp_path):
    net = seeded(Resized, mode=mode, sides=sides).eval()
    plain = net.extract((option,))
    to_pt2(plain, images(), tmp_path / "net.pt2")  # which compare logits with the module's
    if sides == (4, 6) and option == 1:  # one with antialiasing, since ONNX takes a second
        pytest.importorskip("onnxruntime")
        to_onnx(plain, images(), tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ms.nn.Resize(0), "side 0 must be at least 1"),
        (lambda: ms.nn.Resize(ms.choose((0, 8), "side")), "must be at least 1 in every arch"),
        (lambda: ms.nn.Resize(ms.choose((4, 6), "side") * 0.3), "needs whole numbers|whole"),
        (lambda: ms.nn.Resize(8, "nearest"), "must be 'bilinear' or 'bicubic', got 'nearest'"),
    ],
)
def test_impossible_sides_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
