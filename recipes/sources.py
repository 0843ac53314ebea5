"""Fetches the public images that the shipped base is trained on and packs them into data/emoji-*.npz.

    python recipes/sources.py            (needs npm, resvg-py, and apt-get or the font file: --font PATH)

Every set draws the same emoji in a style of its own, which the file's name and the captions' words say:

| file | words | set | license |
|---|---|---|---|
| emoji-3d | "3d emoji" | Microsoft's Fluent emoji, npm `@lobehub/fluent-emoji-3d` 1.1.0 | MIT |
| emoji-flat | "flat emoji" | Noto Color Emoji, the font of Debian's `fonts-noto-color-emoji` | OFL-1.1 |
| emoji-simple | "simple emoji" | Microsoft's Fluent emoji, npm `@iconify-json/fluent-emoji-flat` 1.2.6 | MIT |
| emoji-cartoon | "cartoon emoji" | Twemoji, npm `@iconify-json/twemoji` 1.2.5 | CC-BY-4.0 |
| emoji-soft | "soft emoji" | EmojiOne 2, npm `@iconify-json/emojione` 1.2.3 | CC-BY-4.0 |
| emoji-classic | "classic emoji" | FxEmoji, npm `@iconify-json/fxemoji` 1.2.2 | Apache-2.0 |

Names are those of npm `emoji-datasource` 16.0.0 (MIT), synonyms those of `emojibase-data` 17.0.0 (MIT).
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import tarfile
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tether.datasets.synthetic.emoji import is_held_out

NPM = {
    "fluent": "@lobehub/fluent-emoji-3d@1.1.0",
    "names": "emoji-datasource@16.0.0",
    "synonyms": "emojibase-data@17.0.0",
    "simple": "@iconify-json/fluent-emoji-flat@1.2.6",
    "cartoon": "@iconify-json/twemoji@1.2.5",
    "soft": "@iconify-json/emojione@1.2.3",
    "classic": "@iconify-json/fxemoji@1.2.2",
}
STYLES = ("3d", "flat", "simple", "cartoon", "soft", "classic")
VECTOR_STYLES = STYLES[2:]
"""The styles that are drawn from SVG; each is the package of its name in `NPM`."""
KEPT = {"Smileys & Emotion", "Animals & Nature", "Food & Drink", "Activities", "Objects", "Travel & Places"}
KEPT_SUBCATEGORIES = {"body-parts", "hands", "hand-prop", "geometric"}
LEFT_OUT_SUBCATEGORIES = {"time"}
"""What a 128 px latent model draws badly stays out: flags, lettering, clock faces, near-identical people."""

FLUENT_SIZE, NOTO_SIZE, VECTOR_SIZE = 160, 128, 144
BOX = {"left": 0, "top": 0, "width": 16, "height": 16}
"""Iconify's keys of an icon's view box with their defaults."""
XLINK = 'xmlns:xlink="http://www.w3.org/1999/xlink"'


def fetch(folder: Path) -> None:
    """Downloads and unpacks the npm packages below `folder`, once."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, package in NPM.items():
        if (folder / name).exists():
            continue
        packed = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.split()[-1]
        with tarfile.open(folder / packed) as archive:
            archive.extractall(folder / name, filter="data")


def fetch_font(folder: Path) -> Path:
    """Downloads Debian's Noto Color Emoji package and unpacks the font, without installing anything."""
    font = folder / "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
    if not font.exists():
        subprocess.run(["apt-get", "download", "fonts-noto-color-emoji"], cwd=folder, check=True)
        package = next(folder.glob("fonts-noto-color-emoji_*.deb"))
        subprocess.run(["dpkg", "-x", package.name, "."], cwd=folder, check=True)
    return font


def entries(folder: Path) -> list[dict]:
    """The kept emoji: code point, name, synonyms, and which of these are names of it (the others are tags: "food")."""
    names = json.loads((folder / "names/package/emoji.json").read_text())
    extra = {
        entry["hexcode"].upper(): entry for entry in json.loads((folder / "synonyms/package/en/data.json").read_text())
    }
    kept = []
    for entry in sorted(names, key=lambda e: e["sort_order"]):
        sub = entry["subcategory"]
        hand = sub.startswith("hand") or sub in KEPT_SUBCATEGORIES
        if not (hand or entry["category"] in KEPT) or sub in LEFT_OUT_SUBCATEGORIES:
            continue
        code = entry["unified"].upper()
        more = extra.get(code) or extra.get(code.replace("-FE0F", "")) or {}
        name = entry["name"].lower()
        label = more.get("label", name).lower()
        words = [label] if label != name else []
        words += [short.replace("_", " ") for short in entry["short_names"]]
        tags = [tag for tag in more.get("tags", [])[:4] if tag.isascii() and len(tag) > 2]
        synonyms = [w for w in dict.fromkeys(words + tags) if w != name and any(c.isalpha() for c in w)]
        names = [w for w in synonyms if w in words]
        kept.append({"code": code, "name": name, "synonyms": synonyms, "names": names})
    return kept


def read_fluent(folder: Path, code: str) -> np.ndarray | None:
    """The 3D drawing of a code point, uint8 `(160, 160, 4)`, or None where the set has none."""
    for stem in (code.lower(), code.lower().replace("-fe0f", ""), code.lower() + "-fe0f"):
        path = folder / "fluent/package/assets" / f"{stem}.webp"
        if path.exists():
            image = Image.open(path).convert("RGBa").resize((FLUENT_SIZE, FLUENT_SIZE), Image.Resampling.LANCZOS)
            return np.asarray(image.convert("RGBA"))
    return None


def draw_noto(font: ImageFont.FreeTypeFont, code: str) -> np.ndarray | None:
    """The flat drawing of a code point, uint8 `(128, 128, 4)`, or None where the font has no single glyph."""
    text = "".join(chr(int(part, 16)) for part in code.split("-"))
    image = Image.new("RGBA", (136, 128), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((0, 0), text, font=font, embedded_color=True)
    box = image.getbbox()
    if box is None or box[2] > 134 or font.getlength(text) > 140:
        return None
    return np.asarray(image.crop((4, 0, 132, 128)))


def read_vectors(folder: Path, style: str, kept: list[dict]) -> list[str | None]:
    """The SVG of each kept emoji in an Iconify package below `folder`, or None where the set has none.

    An icon is found by its code point where the package lists these, else by its name, which is a label or a short name
    of the emoji with the spaces replaced or left out.
    """
    package = folder / style / "package"
    icons = json.loads((package / "icons.json").read_text())
    codes = {code.replace("-fe0f", ""): icon for code, icon in json.loads((package / "chars.json").read_text()).items()}
    named = {re.sub("[^a-z0-9]", "", icon): icon for icon in [*icons.get("aliases", {}), *icons["icons"]]}
    found: list[str | None] = []
    for entry in kept:
        names = [entry["name"], *entry["names"]]
        icon = codes.get(entry["code"].lower().replace("-fe0f", ""))
        if not codes:
            icon = next((named[key] for name in names if (key := re.sub("[^a-z0-9]", "", name)) in named), None)
        found.append(None if icon is None else as_svg(icons, icon))
    return found


def as_svg(icons: dict, name: str) -> str:
    """An icon of an Iconify set, or an alias of one, as a whole SVG file with a square view."""
    icon = icons["icons"].get(name) or icons["icons"][icons["aliases"][name]["parent"]]
    left, top, width, height = (icon.get(key, icons.get(key, default)) for key, default in BOX.items())
    side = max(width, height)
    view = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {XLINK} viewBox="{view}">{icon["body"]}</svg>'


def draw_svg(svg: str) -> np.ndarray:
    """An SVG's image, uint8 `(144, 144, 4)`, straight alpha."""
    import resvg_py  # only this function needs it, and the GPU's recipe alone carries it

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=VECTOR_SIZE, height=VECTOR_SIZE))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def pack_vectors(data: Path, style: str, kept: list[dict], vectors: list[str | None]) -> None:
    """Draws the SVGs of one style on all cores and packs them."""
    with Pool() as pool:
        drawn = iter(pool.map(draw_svg, [svg for svg in vectors if svg is not None], chunksize=16))
    drawings = [None if svg is None else next(drawn) for svg in vectors]
    pack(data / f"emoji-{style}.npz", f"{style} emoji", kept, drawings)


def pack(
    path: Path, style: str, kept: list[dict], drawings: list[np.ndarray | None], *, compressed: bool = True
) -> None:
    """Writes one style to `path`: the drawings, names, synonyms and which names are held out."""
    rows = [(entry, rgba) for entry, rgba in zip(kept, drawings, strict=True) if rgba is not None]
    save = np.savez_compressed if compressed else np.savez
    save(
        path,
        rgba=np.stack([rgba for _, rgba in rows]),
        words=np.array(json.dumps([entry for entry, _ in rows])),
        style=np.array(style),
    )
    held_out = sum(is_held_out(entry["name"]) for entry, _ in rows)
    print(f"{path}: {len(rows)} drawings, {held_out} of them held out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--font", type=Path)
    arguments = parser.parse_args()
    raw = arguments.data / "raw"
    fetch(raw)
    font = ImageFont.truetype(str(arguments.font or fetch_font(raw)), 109)
    kept = entries(raw)
    pack(arguments.data / "emoji-3d.npz", "3d emoji", kept, [read_fluent(raw, e["code"]) for e in kept])
    pack(arguments.data / "emoji-flat.npz", "flat emoji", kept, [draw_noto(font, e["code"]) for e in kept])
    for style in VECTOR_STYLES:
        pack_vectors(arguments.data, style, kept, read_vectors(raw, style, kept))


if __name__ == "__main__":
    main()
