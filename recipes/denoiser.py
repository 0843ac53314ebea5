"""Trains the shipped base's tokenizer, text encoder and denoiser together on cached latents.

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

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from common import DATA, SHARES
from grounding import Grounding
from rounds import Round, add_options, attention
from samples import Samples
from tether.base.noise import noise_process
from tether.files.writing import write_tokenizer
from tether.training.objective import diffusion_loss

TOKENS, WIDTH = 48, 256
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


def train_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """A byte-pair tokenizer of CLIP's kind (lower case, "</w>" ends a word), 3,000 entries, from the captions."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = CLIPTokenizer().backend_tokenizer.normalizer
    bpe.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2998, initial_alphabet=alphabet, end_of_word_suffix="</w>")
    bpe.train_from_iterator(captions, trainer)
    model = json.loads(bpe.to_str())["model"]
    vocabulary = dict(model["vocab"])
    for symbol in sorted(alphabet):  # a single last letter must have an entry too
        vocabulary.setdefault(symbol + "</w>", len(vocabulary))
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)
    write_tokenizer(folder, tokenizer)
    return CLIPTokenizer.from_pretrained(folder)


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
        # The prompt as a whole, pooled, joins the time embedding: every layer hears it from the first step on, while
        # cross-attention learns only slowly which word belongs where.
        addition_embed_type="text",
        addition_embed_type_num_heads=8,
    )
    return unet, text


def go_on(start: Path, tokenizer: CLIPTokenizer) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """The networks of an earlier base; what it did not have, the pooled prompt, starts at exactly nothing."""
    unet, text = build(tokenizer)
    text.load_state_dict(load_file(start / "text_encoder/model.safetensors"))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, out="runs/base", steps=5000, batch=64, lr=1e-3, seed=2)
    parser.add_argument("--latents", type=Path, default=DATA / "latents.npz")
    parser.add_argument("--start", type=Path, help="a base to go on from, as src/tether/weights/base")
    parser.add_argument("--noise-offset", type=float, default=0.0)
    parser.add_argument("--shift", type=float, default=2.5, help="of timesteps, to where shapes are decided")
    parser.add_argument("--grounding", type=float, default=0.05, help="weight of the second loss, of grounding.py")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--compile", action="store_true", help="worth its minute on a GPU")
    arguments = parser.parse_args()
    device = arguments.device
    torch.backends.cudnn.benchmark = True

    tokens_folder = arguments.out / "tokenizer"
    if arguments.start and not tokens_folder.exists():
        shutil.copytree(arguments.start / "tokenizer", tokens_folder)
    if tokens_folder.exists():
        tokenizer = CLIPTokenizer.from_pretrained(tokens_folder)
    else:
        with np.load(arguments.latents) as pack:
            captions = json.loads(str(pack["captions"]))
        tokenizer = train_tokenizer([words for row in captions for words in row], tokens_folder)
    torch.manual_seed(arguments.seed)
    unet, text = go_on(arguments.start, tokenizer) if arguments.start else build(tokenizer)
    both = nn.ModuleList([unet, text]).to(device)
    both.to(memory_format=torch.channels_last)
    run = Round(both, arguments, lambda average: export(arguments.out, *average), log_every=100)
    grounding, process = Grounding(unet), noise_process(NOISE_SCHEDULE)
    scenes = arguments.data / "scenes.npz"
    samples = Samples(arguments.latents, scenes, tokenizer, SHARES, length=TOKENS, device=device)
    count = sum(p.numel() for p in unet.parameters()), sum(p.numel() for p in text.parameters())
    print(
        f"unet {count[0] / 1e6:.1f} M, text encoder {count[1] / 1e6:.1f} M, {len(tokenizer)} tokens",
        flush=True,
    )

    denoise, generator = torch.compile(unet) if arguments.compile else unet, torch.Generator(device)
    for step in run:
        generator.manual_seed(arguments.seed * 10**6 + step)
        batch = samples.draw(arguments.batch, 0.1, generator)
        with attention(device), torch.autocast(device.type, torch.bfloat16):
            states = text(batch.tokens).last_hidden_state
            loss = diffusion_loss(
                lambda noisy, t: denoise(noisy, t, states).sample,  # noqa: B023
                batch.latents,
                process,
                randomness=generator,
                velocity_cap=50.0,
                noise_offset=arguments.noise_offset,
                stratified=True,
                shift=arguments.shift,
            )
        grounded = grounding.loss(batch.words, batch.masks)
        run.learn(loss + arguments.grounding * grounded, loss=loss, grounding=grounded)


if __name__ == "__main__":
    main()
