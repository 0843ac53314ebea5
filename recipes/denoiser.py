"""Trains the shipped base's text encoder and denoiser together on packed latents.

    python recipes/denoiser.py --steps 5000 --out runs/base                 (again: continues)

Loss: epsilon prediction on SD's noise schedule, weighted as v-prediction would be (`diffusion_loss` says why: with
min-SNR weights the words were hardly followed after 4,800 steps); 10% of the captions are empty, for classifier-free
guidance. An exponential moving average of the weights is what is kept.

Kernels and matrices are trained by Muon, all else by AdamW: 300 steps from the same weights with the same samples ended
at a loss of 0.231, with AdamW alone at 0.238, and took 1.04 s each in place of 0.86 s.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from common import DATA, SHARES
from grounding import Grounding
from mixture import TOKENIZER
from rounds import Round, add_options, attention
from samples import TOKENS, Samples
from tether.base.noise import noise_process
from tether.training.objective import diffusion_loss

WIDTH = 256
NOISE_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def build(tokenizer: CLIPTokenizer) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(96, 192, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=6,
        # The prompt as a whole, pooled, joins the time embedding: every layer gets it from the first step on, while
        # cross-attention learns only slowly which word belongs where.
        addition_embed_type="text",
        addition_embed_type_num_heads=8,
    )
    return unet, text


def go_on(start: Path, tokenizer: CLIPTokenizer) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """The networks of an earlier base; what it did not have, the pooled prompt, starts at exactly nothing."""
    unet, _ = build(tokenizer)
    text = CLIPTextModel.from_pretrained(
        start / "text_encoder", torch_dtype=torch.float32
    )  # knows names of all versions
    text.train()
    missing, unexpected = unet.load_state_dict(
        load_file(start / "unet/diffusion_pytorch_model.safetensors"), strict=False
    )
    assert not unexpected, unexpected
    if missing:
        assert all(name.startswith("add_embedding.") for name in missing), missing
        nn.init.zeros_(unet.add_embedding.norm2.weight)
    return unet, text


def export(folder: Path, unet: nn.Module, text: nn.Module) -> None:
    """Writes denoiser, text encoder, schedule and index beside the autoencoder: a whole diffusers folder."""
    unet.save_pretrained(folder / "unet")  # type: ignore[operator]
    text.save_pretrained(folder / "text_encoder")  # type: ignore[operator]
    DDIMScheduler(**NOISE_SCHEDULE).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def open_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer in a folder; the shipped base's is copied there first if it has none."""
    if not folder.exists():
        shutil.copytree(TOKENIZER, folder)
    return CLIPTokenizer.from_pretrained(folder)


def shift_at(progress: float, first: float, last: float) -> float:
    """The shift of timesteps at a share of the steps: constant in the first half, then a line to the last one.

    Shapes first, then details: errors at weak noise are blotches and halos.
    """
    return first + (last - first) * max(0.0, 2 * progress - 1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, out="runs/base", steps=5000, batch=64, lr=1e-3, seed=2)
    parser.add_argument("--latents", type=Path, default=DATA / "latents.npz")
    parser.add_argument("--start", type=Path, help="a base to go on from, as src/tether/weights/base")
    parser.add_argument("--noise-offset", type=float, default=0.0)
    parser.add_argument("--shift", type=float, default=2.5, help="of timesteps, to where shapes are decided")
    parser.add_argument("--last-shift", type=float, default=1.2, help="of the last step; the second half goes there")
    parser.add_argument("--grounding", type=float, default=0.05, help="weight of the second loss, of grounding.py")
    parser.add_argument("--compile", action="store_true", help="costs two minutes of a GPU first")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    device = arguments.device
    torch.backends.cudnn.benchmark = True
    tokenizer = open_tokenizer(arguments.out / "tokenizer")
    torch.manual_seed(arguments.seed)
    unet, text = go_on(arguments.start, tokenizer) if arguments.start else build(tokenizer)
    both = nn.ModuleList([unet, text]).to(device)
    both.to(memory_format=torch.channels_last)
    run = Round(both, arguments, lambda average: export(arguments.out, *average), log_every=100)
    grounding, process = Grounding(unet), noise_process(NOISE_SCHEDULE)
    empty = tokenizer("", padding="max_length", max_length=TOKENS).input_ids
    samples = Samples(arguments.latents, empty, SHARES, device=device)
    count = sum(p.numel() for p in unet.parameters()), sum(p.numel() for p in text.parameters())
    print(f"unet {count[0] / 1e6:.1f} M, text encoder {count[1] / 1e6:.1f} M, {len(tokenizer)} tokens", flush=True)

    denoise, encode = (torch.compile(part) if arguments.compile else part for part in (unet, text))
    generator = torch.Generator(device)
    for step in run:
        generator.manual_seed(arguments.seed * 10**6 + step)
        batch = samples.draw(arguments.batch, 0.1, generator)
        with attention(device), torch.autocast(device.type, torch.bfloat16):
            states = encode(batch.tokens).last_hidden_state
            loss = diffusion_loss(
                lambda noisy, t: denoise(noisy, t, states).sample,  # noqa: B023
                batch.latents,
                process,
                randomness=generator,
                velocity_cap=50.0,
                noise_offset=arguments.noise_offset,
                stratified=True,
                shift=shift_at(step / run.steps, arguments.shift, arguments.last_shift),
            )
        grounded = grounding.loss(batch.words, batch.masks)
        run.learn(loss + arguments.grounding * grounded, loss=loss, grounding=grounded)


if __name__ == "__main__":
    main()
