"""Makes the image fixtures of this folder and ../photo.jpg; the files are committed, so tests do not run this.

    pip install pillow numpy && python3 make.py

Every picture is the same scene, four quadrants of different colour under some noise, so that a wrong
orientation shows in the pixels. The sizes lie above 10,240 bytes where a thumbnail is to be made, since the
API hands smaller images out as they are. Same versions of Pillow and numpy give the same bytes.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
WIDTH, HEIGHT = 240, 160


def scene(width=WIDTH, height=HEIGHT, noise=24, seed=7):
    """Red and green above, blue and yellow below, a diagonal gradient, noise."""
    picture = np.zeros((height, width, 3), np.float64)
    half_w, half_h = width // 2, height // 2
    picture[:half_h, :half_w] = (200, 40, 40)
    picture[:half_h, half_w:] = (40, 180, 60)
    picture[half_h:, :half_w] = (40, 60, 200)
    picture[half_h:, half_w:] = (220, 200, 50)
    ramp = np.add.outer(np.linspace(-15, 15, height), np.linspace(-15, 15, width))
    rng = np.random.default_rng(seed)
    picture += ramp[..., None] + rng.normal(0, noise, (height, width, 1)) + rng.normal(0, noise / 3, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def alpha(width=WIDTH, height=HEIGHT):
    """Opaque in the middle, fading to nothing towards the corners."""
    y, x = np.mgrid[0:height, 0:width]
    distance = np.hypot((x - width / 2) / width, (y - height / 2) / height)
    return np.clip((0.62 - distance) * 900, 0, 255).astype(np.uint8)


def write(name, data):
    (HERE / name).write_bytes(data)


def encoded(image, **options):
    out = io.BytesIO()
    image.save(out, **options)
    return out.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, color, rows, interlaced=False, extra=b""):
    """A PNG of rows of bytes, filter 0; for what Pillow does not write (16-bit colour, Adam7)."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    data = b"".join(b"\0" + row for row in rows)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(data, 9))
        + chunk(b"IEND", b"")
    )


def adam7(pixels):
    for x0, y0, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]:
        for row in pixels[y0::dy, x0::dx]:
            yield row.tobytes()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "chatfiles"
    return tags.tobytes()


# What a decoder must do to show the picture, by EXIF value; stored is the inverse of it.
TO_STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def jpegs():
    rgb = Image.fromarray(scene())
    baseline = encoded(rgb, format="JPEG", quality=85)
    write("baseline.jpg", baseline)
    write("truncated.jpg", baseline[: len(baseline) * 2 // 3])
    write("progressive.jpg", encoded(rgb, format="JPEG", quality=85, progressive=True))
    write("full_chroma.jpg", encoded(rgb, format="JPEG", quality=80, subsampling=0))
    write("odd_422.jpg", encoded(Image.fromarray(scene(237, 163)), format="JPEG", quality=85, subsampling=1))
    write("restart.jpg", encoded(rgb, format="JPEG", quality=85, restart_marker_blocks=4))
    write("grey.jpg", encoded(rgb.convert("L"), format="JPEG", quality=90))
    cmyk = encoded(rgb.convert("CMYK"), format="JPEG", quality=65)
    write("cmyk_adobe.jpg", cmyk)
    # Without Adobe's marker: shown the same by browsers, which take all CMYK for inverted.
    plain = cmyk
    at = plain.index(b"\xff\xee")
    length = struct.unpack(">H", plain[at + 2 : at + 4])[0]
    write("cmyk_plain.jpg", plain[:at] + plain[at + 2 + length :])
    # YCCK: Adobe's transform 2. Its first three components are the YCbCr of ink amounts, its fourth is
    # inverted black; Pillow inverts all four as it writes, so they are handed over inverted.
    ink = np.array(rgb.convert("CMYK"))
    ycc = np.array(Image.fromarray(np.ascontiguousarray(ink[..., :3])).convert("YCbCr"))
    ycck = np.dstack([ycc, 255 - ink[..., 3:]])
    stored = encoded(Image.fromarray(255 - ycck, mode="CMYK"), format="JPEG", quality=80)
    at = stored.index(b"Adobe") + 11
    assert stored[at] == 0
    write("ycck_adobe.jpg", stored[:at] + b"\x02" + stored[at + 1 :])
    for value, to_stored in TO_STORED.items():
        picture = Image.fromarray(np.ascontiguousarray(to_stored(scene())))
        write(f"orientation_{value}.jpg", encoded(picture, format="JPEG", quality=85, exif=exif(value)))
    at = baseline.index(b"\xff\xc0")
    write("bomb.jpg", baseline[: at + 5] + b"\xff\xff\xff\xff" + baseline[at + 9 : 1024])


def pngs():
    small = (130, 90)
    rgb = scene(*small)
    rgba = np.dstack([rgb, alpha(*small)])
    whole = encoded(Image.fromarray(rgb), format="PNG")
    write("rgb.png", whole)
    write("truncated.png", whole[: len(whole) * 2 // 3])
    write("rgba.png", encoded(Image.fromarray(rgba), format="PNG"))
    write("rgba_opaque.png", encoded(Image.fromarray(np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])), format="PNG"))
    write("grey.png", encoded(Image.fromarray(scene()).convert("L"), format="PNG"))
    write("grey_alpha.png", encoded(Image.fromarray(rgba).convert("LA"), format="PNG"))
    indexed = Image.fromarray(scene()).quantize(64)
    write("palette_trns.png", encoded(indexed, format="PNG", transparency=bytes(range(0, 256, 4))))
    tiny = (84, 56)
    deep = (scene(*tiny).astype(np.uint32) * 257).astype(">u2")
    write("rgb16.png", png(*tiny, 16, 2, [row.tobytes() for row in deep]))
    deep = np.dstack([deep, (alpha(*tiny).astype(np.uint32) * 257).astype(">u2")]).astype(">u2")
    write("rgba16.png", png(*tiny, 16, 6, [row.tobytes() for row in deep]))
    grey = (np.array(Image.fromarray(scene(160, 110)).convert("L")).astype(np.uint32) * 257).astype(">u2")
    write("grey16.png", png(160, 110, 16, 0, [row.tobytes() for row in grey]))
    write("interlaced.png", png(*small, 8, 2, list(adam7(rgb)), interlaced=True))
    turned = np.ascontiguousarray(TO_STORED[6](rgb))
    exif_chunk = chunk(b"eXIf", exif(6).removeprefix(b"Exif\0\0"))
    write("orientation_6.png", png(turned.shape[1], turned.shape[0], 8, 2, [row.tobytes() for row in turned], extra=exif_chunk))
    write("bomb.png", png(60000, 60000, 8, 2, [b"\0" * 64]))


def others():
    frames = [Image.fromarray(scene(160, 120, seed=seed)).quantize(64) for seed in (7, 8)]
    animated = bytearray(encoded(frames[0], format="GIF", save_all=True, append_images=frames[1:], duration=100, loop=0))
    write("animated.gif", bytes(animated))
    # The first frame at (30, 20) of a canvas of 240 x 160: nothing around it.
    at = animated.index(b"\x2c\0\0\0\0\xa0\0\x78\0")
    animated[6:10] = struct.pack("<HH", 240, 160)
    animated[at + 1 : at + 5] = struct.pack("<HH", 30, 20)
    write("frame_in_canvas.gif", bytes(animated))
    rgb = Image.fromarray(scene())
    rgba = Image.fromarray(np.dstack([scene(130, 90), alpha(130, 90)]))
    write("lossy.webp", encoded(rgb, format="WEBP", quality=85, method=6))
    write("lossy_alpha.webp", encoded(Image.fromarray(np.dstack([scene(), alpha()])), format="WEBP", quality=85, method=6))
    write("lossless_alpha.webp", encoded(rgba, format="WEBP", lossless=True, method=6))
    write("lossless.webp", encoded(Image.fromarray(scene(130, 90)), format="WEBP", lossless=True, method=6))
    more = [Image.fromarray(scene(seed=seed)) for seed in (8, 9)]
    write("animated.webp", encoded(rgb, format="WEBP", save_all=True, append_images=more, duration=100, quality=60, method=6))
    turned = Image.fromarray(np.ascontiguousarray(TO_STORED[6](scene())))
    write("orientation_6.webp", encoded(turned, format="WEBP", quality=80, method=6, exif=exif(6)))
    write("rgb.bmp", encoded(Image.fromarray(scene(100, 70)), format="BMP"))
    write("palette.bmp", encoded(Image.fromarray(scene(160, 120)).quantize(64), format="BMP"))


def photo(width=1600, height=1200):
    """An evening over mountains: a gradient, a sun, ridges of layered noise, film grain."""
    rng = np.random.default_rng(2026)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    up = (1 - y / height)[..., None]
    sky = np.array([250, 150, 90]) * (1 - up) + np.array([45, 70, 140]) * up
    sky += np.array([60, 25, -20]) * np.exp(-(((y / height - 0.55) / 0.16) ** 2))[..., None]
    distance = np.hypot(x - width * 0.68, y - height * 0.42)
    glow = np.exp(-distance / 170)[..., None] * np.array([150, 120, 60])
    disc = np.clip((62 - distance) / 3, 0, 1)[..., None]
    picture = (sky + glow) * (1 - disc) + np.array([255, 240, 200]) * disc
    for layer in range(5):
        depth = layer / 4
        ridge = np.zeros(width)
        for octave in range(8):
            knots = rng.normal(0, 1, 4 * 2**octave + 2)
            ridge += np.interp(np.linspace(0, len(knots) - 1, width), np.arange(len(knots)), knots) * 0.55**octave
        line = height * (0.55 + 0.1 * layer) - ridge * (55 + 20 * depth)
        mask = np.clip(y - line[None, :], 0, 1)[..., None]
        far, near = np.array([150, 110, 120]), np.array([18, 22, 36])
        color = far * (1 - depth) + near * depth
        below = np.clip((y - line[None, :]) / 260, 0, 1)[..., None]
        shaded = color * (1 - 0.25 * below) + np.array([220, 150, 120]) * 0.18 * below * (1 - depth)
        texture = rng.normal(0, 3.0 * (0.4 + depth), (height // 4, width // 4)).repeat(4, 0).repeat(4, 1)
        picture = picture * (1 - mask) + (shaded + texture[..., None]) * mask
    picture += rng.normal(0, 2.2, (height, width, 1))
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    image.save(HERE.parent / "photo.jpg", quality=82, optimize=True, exif=exif(1))


if __name__ == "__main__":
    jpegs()
    pngs()
    others()
    photo()
    for path in sorted(HERE.iterdir()) + [HERE.parent / "photo.jpg"]:
        print(f"{path.stat().st_size:8} {path.name}")
