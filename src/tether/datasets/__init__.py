"""Training data, from files to what a training step reads.

    source.py, sources/    where samples come from: one reader a layout, and `open_source`
    synthetic/             sources that the package draws itself
    prepare.py, shards.py, manifest.py, build.py, check.py
                           a dataset: every sample decoded, annotated, checked and packed
    latents/               a dataset's crops and captions, encoded once for one base

The way of a sample: `Source.sample` -> `prepare` -> `write_tar` (a dataset) -> `TarReader.sample` -> `Crop` ->
`encode_samples` (a cache) -> `CachedSamples.sample` -> `tether.training.data`.
"""
