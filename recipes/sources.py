"""Fetches the public images that the shipped base is trained on and packs them into data/emoji-*.npz.

    python recipes/sources.py            (needs npm, and apt-get or the font file: --font PATH)

Sources: the npm packages `@lobehub/fluent-emoji-3d` 1.1.0 (MIT), `emoji-datasource` 16.0.0 (MIT, for names)
and `emojibase-data` 17.0.0 (MIT, for synonyms), and the font of Debian's `fonts-noto-color-emoji` (OFL-1.1).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tether.datasets.synthetic.emoji import is_held_out

NPM = {
    "fluent": "@lobehub/fluent-emoji-3d@1.1.0",
    "names": "emoji-datasource@16.0.0",
    "synonyms": "emojibase-data@17.0.0",
}
KEPT = {"Smileys & Emotion", "Animals & Nature", "Food & Drink", "Activities", "Objects", "Travel & Places"}
KEPT_SUBCATEGORIES = {"body-parts", "hands", "hand-prop", "geometric"}
LEFT_OUT_SUBCATEGORIES = {"time"}
"""What a 128 px latent model draws badly stays out: flags, lettering, clock faces, near-identical people."""

FLUENT_SIZE, NOTO_SIZE = 160, 128


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


def pack(path: Path, style: str, kept: list[dict], drawings: list[np.ndarray | None]) -> None:
    """Writes one style to `path`: the drawings, names, synonyms and which names are held out."""
    rows = [(entry, rgba) for entry, rgba in zip(kept, drawings, strict=True) if rgba is not None]
    np.savez_compressed(
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


if __name__ == "__main__":
    main()
