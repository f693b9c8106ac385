"""Says what images show, a line each: python THIS_FILE IMAGE...

It needs numpy, Pillow and onnxruntime. The network is the .onnx file of the same name beside it,
which carries class names and sizes. Each line has path, class and probability, with tabs between.
A path or a class with a tab or a line break in it, or a quotation mark before it, is in JSON.
"""

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

FORMATS = ("BMP", "JPEG", "PNG", "TIFF", "WEBP")
UPRIGHT = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
UPRIGHT |= {6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}  # by EXIF orientation


def orientation(file: Image.Image) -> int:
    """How the image is stored, by EXIF; 1 is upright."""
    try:
        return int(file.getexif().get(0x0112, 1))
    except Exception:  # EXIF data that cannot be read
        return 1


def pixels(path: str, channels: int, height: int, width: int, cover: bool) -> npt.NDArray[np.uint8]:
    """The image as the network was trained on: upright, opaque, of 8 bits, resized."""
    with Image.open(path, formats=FORMATS) as file:
        if file.format == "JPEG":  # large ones are decoded at a quarter or an eighth of their size
            wide, high = (height, width) if orientation(file) >= 5 else (width, height)
            if min(file.width // wide, file.height // high) >= 4:
                file.draft(None, (wide, high))
        file.load()
        image: Image.Image = file
        turned = UPRIGHT.get(orientation(file))
        if image.mode.startswith("I;16") or (image.mode, file.format) == ("I", "PNG"):
            if "transparency" in image.info:
                raise ValueError("it has 16 bits and a transparent colour; convert it to 8 bits")
            deep = np.asarray(image).astype(np.int64)
            image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
        elif image.mode[0] in "IF":
            raise ValueError(f"its pixels, of mode {image.mode}, have no known range")
        elif image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB").convert("L" if channels == 1 else "RGB")
    image = image if turned is None else image.transpose(Image.Transpose[turned])
    if cover and image.size != (width, height):  # cover the rectangle, then cut its centre
        scale = max(height / image.height, width / image.width)
        high = max(height, round(image.height * scale))
        wide = max(width, round(image.width * scale))
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        left, top = round((wide - width) / 2), round((high - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)


def field(text: str) -> str:
    """The text as it is, or as JSON where it would end its column or its line."""
    is_plain = text.splitlines() == [text] and "\t" not in text and not text.startswith('"')
    return text if is_plain else json.dumps(text)


def main(paths: list[str]) -> None:
    """Prints a line per image."""
    if not paths:
        sys.exit(__doc__)
    network = Path(__file__).with_name(Path(__file__).name.removesuffix(".predict.py") + ".onnx")
    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    data = json.loads(session.get_modelmeta().custom_metadata_map["manyshot"])["data"]
    channels, height, width = data["image_shape"]
    cover = data["resize"]["crop"] == "centre"
    for path in paths:
        try:
            image = pixels(path, channels, height, width, cover)
        except (OSError, ValueError) as error:
            sys.exit(f"error: {path}: {error}")
        batch = image[None].astype(np.float32) / 255
        if data["normalised_by"] != "the files":
            mean, std = (np.reshape(data[key], (1, -1, 1, 1)) for key in ("mean", "std"))
            batch = ((batch - mean) / std).astype(np.float32)
        [[logits]] = session.run([data.get("output", "logits")], {"images": batch})
        odds = np.exp(logits.astype(np.float64) - logits.max())
        best = int(odds.argmax())
        name = data["class_names"][best] if "class_names" in data else str(best)
        line = f"{field(path)}\t{field(name)}\t{odds[best] / odds.sum():.4f}\n"
        sys.stdout.buffer.write(line.encode(errors="surrogateescape"))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
