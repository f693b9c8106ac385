"""What is in an image file, beside arrays that were written and the EXIF standard's own words."""

import io
import os
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from manyshot.data import ImageFolderSet, decoding, load
from manyshot.data.decoding import MOST_PIXELS, contents, covering, decode, look_at, pixels

COLOURS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)

# Where the EXIF standard says that the first stored row and column are seen.
STORED = {
    1: lambda seen: seen,  # top, left
    2: lambda seen: seen[:, ::-1],  # top, right
    3: lambda seen: seen[::-1, ::-1],  # bottom, right
    4: lambda seen: seen[::-1],  # bottom, left
    5: lambda seen: seen.transpose(1, 0, 2),  # left, top
    6: lambda seen: seen.transpose(1, 0, 2)[::-1],  # right, top
    7: lambda seen: seen.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
    8: lambda seen: seen.transpose(1, 0, 2)[:, ::-1],  # left, bottom
}


def read(path, channels=3):
    files = ImageFolderSet(
        root=path.parent,
        paths=(path.name,),
        contents=("",),
        labels=torch.tensor([0]),
        class_names=("a",),
        image_shape=(channels, 4, 4),
    )
    return files.read(0).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_images_are_seen_upright(tmp_path, orientation, ending):
    path, exif = tmp_path / f"x.{ending}", Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](COLOURS)))
    stored.save(path, exif=exif, **({"lossless": True} if ending == "webp" else {}))
    assert np.array_equal(read(path), COLOURS)
    assert decode(contents(path))[1][:2] == (5, 7)
    with Image.open(path) as image:
        assert np.array_equal(ImageOps.exif_transpose(image), COLOURS)


def test_exif_data_that_cannot_be_read_is_said(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(COLOURS).save(path, exif=b"Exif\0\0nonsense")
    assert np.array_equal(read(path), COLOURS)
    assert decode(contents(path))[1].traits == ("exif",)


@pytest.mark.parametrize("kind", ["x.png", "little.tif", "big.tif"])
def test_16_bits_become_the_nearest_8(tmp_path, kind):
    values = np.concatenate([np.arange(0, 65536, 37), [65535]]).astype(np.uint16)[None]
    mode = "I;16B" if kind == "big.tif" else "I;16"
    data = values.astype(">u2" if kind == "big.tif" else "<u2").tobytes()
    Image.frombytes(mode, (values.shape[1], 1), data).save(tmp_path / kind)
    with Image.open(tmp_path / kind) as image:
        assert image.mode == mode
    expected = np.floor(values / 65535 * 255 + 0.5)
    assert np.array_equal(read(tmp_path / kind, channels=1)[:, :, 0], expected)
    seen = decode(contents(tmp_path / kind))[1]
    assert (seen.is_grey, seen.traits) == (True, ("deep",))


def test_16_bits_of_which_12_are_used_are_warned_of(tmp_path, write_folder_set):
    write_folder_set(tmp_path, each=4)
    Image.fromarray(np.full((9, 9), 4095, np.uint16)).save(tmp_path / "train/ant/0.png")
    with pytest.warns(UserWarning, match="1 of 16 bits, .*; 1 of 16 bits of which the lowest 12"):
        load("folder", root=tmp_path, image_size=8)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "colour"])
def test_what_is_transparent_is_put_on_white(tmp_path, kind):
    """Porter and Duff's "over": alpha * colour + (1 - alpha) * 255, to one grey level."""
    path, rng = tmp_path / "x.png", np.random.default_rng(1)
    alpha = rng.integers(0, 256, (5, 7), dtype=np.uint8)
    if kind == "RGBA":
        colours = COLOURS
        Image.fromarray(np.dstack([colours, alpha])).save(path)
    elif kind == "LA":
        colours = COLOURS[:, :, :1]
        Image.fromarray(np.dstack([colours[:, :, 0], alpha])).save(path)
    elif kind == "palette":
        chosen = alpha % 2
        image = Image.fromarray(chosen, mode="P")
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.save(path, transparency=bytes([0, 128]))
        colours = np.array([[10, 20, 30], [40, 50, 60]])[chosen]
        alpha = np.array([0, 128])[chosen]
    else:
        colours = COLOURS.copy()
        colours[2, 3] = 1, 2, 3
        Image.fromarray(colours).save(path, transparency=(1, 2, 3))
        alpha = np.where((colours == [1, 2, 3]).all(2), 0, 255)
    share = alpha[:, :, None] / 255
    expected = share * colours + (1 - share) * 255
    seen = read(path, channels=colours.shape[2]).astype(float)
    assert np.abs(seen - expected).max() <= 1
    assert np.array_equal(seen[alpha == 255], colours[alpha == 255])
    assert (seen[alpha == 0] == 255).all()
    assert decode(contents(path))[1] == (5, 7, kind == "LA", ("transparent",), "", "")


def test_an_alpha_channel_that_is_opaque_is_nothing_to_say(tmp_path, write_folder_set):
    opaque = np.dstack([COLOURS, np.full((5, 7), 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "x.png")
    assert decode(contents(tmp_path / "x.png"))[1].traits == ()
    write_folder_set(tmp_path, each=4)
    opaque[0, 0, 3] = 254
    Image.fromarray(opaque).save(tmp_path / "test/ant/0.png")
    with pytest.warns(UserWarning, match="1 transparent in places, put on white"):
        load("folder", root=tmp_path, image_size=8)


def test_of_several_frames_the_first_is_used_and_that_is_said(tmp_path):
    frames = [Image.fromarray(COLOURS), Image.fromarray(255 - COLOURS)]
    for ending in ("tif", "webp"):
        path = tmp_path / f"x.{ending}"
        frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
        assert np.array_equal(read(path), COLOURS)
        assert decode(contents(path))[1].traits == ("frames",)
    photo = tmp_path / "photo.jpg"  # cameras keep a preview behind the image, which is not amiss
    frames[0].save(photo, format="MPO", save_all=True, append_images=frames[1:])
    assert np.abs(read(photo).mean() - COLOURS.mean()) < 5
    assert decode(contents(photo))[1].traits == ()


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_known_range_are_refused(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=rf"x\.tif cannot be decoded: .* of mode {mode}"):
        read(tmp_path / "x.tif")


# -- files that are not what they seem -------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("side", [20_000, 8_193])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, side):
    path = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert side**2 > MOST_PIXELS
    with pytest.raises(ValueError, match=r"bomb\.png has more than the 67,108,864 pixels"):
        read(path)


@pytest.mark.parametrize("start", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a", b"%PDF-1.4\n"])
def test_another_format_under_the_name_of_an_image_is_not_opened(tmp_path, start):
    path = tmp_path / "x.png"
    path.write_bytes(start + b"%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match=r"x\.png is none of BMP, JPEG, PNG, TIFF, WEBP"):
        read(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_regular_file_is_refused_without_opening_it(tmp_path, write_folder_set, kind):
    path = write_folder_set(tmp_path) / "test/ant/x.png"
    if kind == "pipe":
        os.mkfifo(path)  # to open it would wait for ever
    else:
        path.symlink_to("/dev/zero")  # to read it would never end
    with pytest.raises(ValueError, match=r"\n  test/ant/x\.png is not a regular file"):
        load("folder", root=tmp_path, image_size=8)


# -- JPEG files that are decoded smaller than they are ---------------------------------------------


def smooth(height, width):
    """A picture whose halves and quarters are means of its pixels."""
    y, x = np.mgrid[:height, :width]
    channels = (128 + 100 * np.sin(x / 60), 128 + 100 * np.cos(y / 50), 255 * x / width)
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("least", "scale"), [((25, 37), 8), ((50, 75), 4), ((51, 75), 1)])
def test_a_jpeg_is_decoded_as_small_as_it_still_covers_what_is_wanted(orientation, least, scale):
    seen = smooth(203, 303)
    stored = np.ascontiguousarray(STORED[orientation](np.asarray(seen)))
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(file, "JPEG", quality=95, exif=exif)
    shrunk = pixels(file.getvalue(), 3, covering(*least))
    assert shrunk.shape == (3, -(-203 // scale), -(-303 // scale))
    expected = np.asarray(seen.resize(shrunk.shape[:0:-1], Image.Resampling.BOX)).astype(int)
    assert np.abs(shrunk.permute(1, 2, 0).numpy() - expected).mean() < 2
    assert decode(file.getvalue(), covering(*least))[1][:3] == (203, 303, False)
    assert look_at(file.getvalue())[:3] == (203, 303, False)


def test_a_look_at_an_eighth_of_a_jpeg_misses_nothing_of_its_end():
    """An eighth of the pixels takes all of the file."""
    file = io.BytesIO()
    smooth(203, 303).save(file, "JPEG", quality=95)
    with pytest.raises(ValueError, match="cannot be decoded: .*truncated"):
        look_at(file.getvalue()[:-200])


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_the_faster_decoder_gives_the_pixels_of_pillow(mode, options):
    assert decoding._jpeg_decoder() is not None
    file = io.BytesIO()
    smooth(61, 83).convert(mode).save(file, "JPEG", quality=80, **options)
    with Image.open(file) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(pixels(file.getvalue(), 3).permute(1, 2, 0), expected)
    if mode == "L":
        assert np.array_equal(pixels(file.getvalue(), 1)[0], expected[:, :, 0])
    with pytest.raises(ValueError, match="cannot be decoded: .*truncated"):
        pixels(file.getvalue()[:-200], 3)
