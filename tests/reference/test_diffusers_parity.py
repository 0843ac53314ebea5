"""The same weights give diffusers' numbers: residuals, the denoiser's output, and 10 steps of every kind of run.

Random weights. The tiny models run always; those of the true size of Stable Diffusion 1.5 and 2.1 are marked slow.
Reference and Tether share the locked networks, so that a true size stays under 8 GiB. Each runs its own loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import tether
from tether.base import Base, ControlNet, TextEncoders
from tether.control import Conditioning
from tether.formats.clip_vocabulary import clip_tokenizer
from tether.sampling import make_scheduler

from ..tiny import NOISE_SCHEDULE

PROMPT, NEGATIVE = "a red cube on a grey floor", "blurry"
STEPS, GUIDANCE = 10, 4.0
SCHEDULERS = ["ddim", "dpmpp-2m", "unipc", "euler"]
STRENGTHS, WINDOWS = [1.0, 0.5, 0.8], [(0.0, 1.0), (0.2, 1.0), (0.0, 0.6)]
TOLERANCE = 1e-5

# Few groups: normalised over two numbers, as 32 groups would be in the smallest layers, rounding decides signs.
TINY_UNET = {
    "norm_num_groups": 8,
    "block_out_channels": (32, 64, 64, 64),
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "cross_attention_dim": 32,
}
TINY_VAE = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
TRUE_VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
TINY_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
# SD 2.x leaves the last of OpenCLIP's 24 layers out.
OPEN_CLIP = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
SD1 = {"cross_attention_dim": 768}  # all else of SD 1.x is what diffusers takes when it is told nothing
SD2 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
SDXL = {
    "norm_num_groups": 8,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": (2, 4, 4),
    "use_linear_projection": True,
    "cross_attention_dim": 32 + 48,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 24,
}


@dataclass(frozen=True)
class Kind:
    """A model: the settings of its networks, its pictures' side in pixels, and whether it predicts v."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    side: int
    v_prediction: bool = False
    xl: bool = False

    def base(self) -> Base:
        torch.manual_seed(0)
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        ends = {"bos_token_id": 49406, "eos_token_id": 49407, "vocab_size": 49408}
        schedule = NOISE_SCHEDULE | ({"prediction_type": "v_prediction"} if self.v_prediction else {})
        pairs: list[Any] = [(clip_tokenizer(), CLIPTextModel(CLIPTextConfig(**self.text, **ends)))]
        if self.xl:
            big = TINY_TEXT | {"hidden_size": 48, "projection_dim": 24, "hidden_act": "gelu"}
            pairs.append((clip_tokenizer("!"), CLIPTextModelWithProjection(CLIPTextConfig(**big, **ends))))
        return Base(
            UNet2DConditionModel(**self.unet),
            AutoencoderKL(**self.vae, **blocks),  # type: ignore[arg-type]
            TextEncoders(*pairs),
            schedule,
            family="sdxl" if self.xl else "custom",
            zero_empty_negative=self.xl,
        )


TINY_BASES = {
    "tiny": Kind(TINY_UNET, TINY_VAE, TINY_TEXT, 128),
    "tiny-v": Kind(TINY_UNET | {"use_linear_projection": True}, TINY_VAE, TINY_TEXT, 128, v_prediction=True),
    "sdxl-reduced": Kind(SDXL, TINY_VAE, TINY_TEXT, 64, xl=True),
}
TRUE_BASES = {
    "sd15": Kind(SD1, TRUE_VAE, CLIP_L, 128),
    "sd21-v": Kind(SD2, TRUE_VAE, OPEN_CLIP, 128, v_prediction=True),
}
KINDS = TINY_BASES | TRUE_BASES
PLAIN = (StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline)
FROM_PICTURE = (StableDiffusionControlNetImg2ImgPipeline, StableDiffusionXLControlNetImg2ImgPipeline)
INPAINTING = (StableDiffusionControlNetInpaintPipeline, StableDiffusionXLControlNetInpaintPipeline)


def control_of(base: Base, seed: int, own: bool) -> ControlNet:
    """A control whose zero convolutions are not zero; one with its `own` encoder is far from the base's as well."""
    torch.manual_seed(seed)
    control = ControlNet.from_unet(base.unet)
    zeros = (control.controlnet_down_blocks, control.controlnet_mid_block, control.controlnet_cond_embedding.conv_out)
    for parameter in (parameter for module in zeros for parameter in module.parameters()):
        torch.nn.init.normal_(parameter, std=0.05)
    if own:
        for parameter in control.parameters():
            parameter.data = parameter.data * 1.1
    return control.requires_grad_(False).eval()


def as_diffusers(control: ControlNet) -> ControlNetModel:
    """diffusers' network with the very same tensors."""
    with torch.device("meta"):
        theirs = ControlNetModel.from_config(control.config)
    theirs.load_state_dict(control.state_dict(), assign=True)
    return theirs.requires_grad_(False).eval()


class Pair:
    """A base with three controls, and diffusers' pipelines over the same weights."""

    def __init__(self, kind: Kind) -> None:
        self.kind, self.base = kind, kind.base()
        self.controls = [control_of(self.base, seed, own=seed == 0) for seed in range(3)]
        self.theirs = [as_diffusers(control) for control in self.controls]

    def reference(self, classes: tuple[Any, Any], scheduler: str, count: int) -> Any:
        base, extra = self.base, {}
        if self.kind.xl:
            extra = {"text_encoder_2": base.text_encoder_2, "tokenizer_2": base.tokenizer_2, "add_watermarker": False}
        else:
            extra = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipe = classes[self.kind.xl](
            unet=base.unet,
            vae=base.vae,
            text_encoder=base.text_encoder,
            tokenizer=base.tokenizer,
            controlnet=self.theirs[0] if count == 1 else self.theirs[:count],
            scheduler=make_scheduler(scheduler, base.noise_schedule),
            **extra,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def given(self, count: int, image: str = "image") -> dict[str, Any]:
        """Arguments of diffusers' pipelines; `image` is what they call the condition."""
        side, conditions = self.kind.side, self.conditions(count)
        return {
            "prompt": PROMPT,
            "negative_prompt": NEGATIVE,
            image: conditions[0] if count == 1 else conditions,
            "num_inference_steps": STEPS,
            "guidance_scale": GUIDANCE,
            "controlnet_conditioning_scale": STRENGTHS[0] if count == 1 else STRENGTHS[:count],
            "control_guidance_start": [window[0] for window in WINDOWS[:count]],
            "control_guidance_end": [window[1] for window in WINDOWS[:count]],
            "height": side,
            "width": side,
            "generator": torch.Generator().manual_seed(5),
            "output_type": "latent",
        }

    def ours(self, scheduler: str, count: int, **changes: Any) -> Tensor:
        injections = [
            tether.Injection(strength=s, window=w) for s, w in zip(STRENGTHS[:count], WINDOWS[:count], strict=True)
        ]
        options: dict[str, Any] = {
            "injections": injections,
            "negative_prompt": NEGATIVE,
            "seed": 5,
            "size": (self.kind.side,) * 2,
        } | changes
        conditions = options.pop("conditions", None) or self.conditions(count)
        result = tether.Pipeline(self.base, self.controls[:count])(
            PROMPT,
            conditions,
            steps=STEPS,
            guidance_scale=GUIDANCE,
            scheduler=scheduler,
            output="latents",
            **options,
        )
        assert isinstance(result, Tensor)
        return result

    def conditions(self, count: int) -> list[Image.Image]:
        side = self.kind.side
        drawn = [np.random.default_rng(k).integers(0, 2, (side, side, 1), dtype=np.uint8) * 255 for k in range(count)]
        return [Image.fromarray(pixels.repeat(3, axis=2)) for pixels in drawn]

    def photo(self) -> Image.Image:
        ramp = np.linspace(0, 255, self.kind.side, dtype=np.uint8)
        across = np.tile(ramp, (self.kind.side, 1))
        return Image.fromarray(np.stack([across, across.T, np.full_like(across, 90)], axis=2))

    def mask(self) -> Image.Image:
        mask = Image.new("L", (self.kind.side,) * 2, 0)
        mask.paste(255, (self.kind.side // 4, 0, 3 * self.kind.side // 4, self.kind.side // 2))
        return mask


def chosen(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow) if name in TRUE_BASES else name


@pytest.fixture(scope="module", params=[chosen(name) for name in KINDS])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(KINDS[request.param])


def assert_equal(ours: Tensor, expected: Tensor) -> None:
    assert bool(torch.isfinite(expected).all())
    assert ours.shape == expected.shape
    assert float((ours - expected).norm() / expected.norm()) < TOLERANCE


@torch.no_grad()
def test_signal_and_the_denoisers_output(pair: Pair) -> None:
    side, width = pair.kind.side // 8, pair.base.unet.config["cross_attention_dim"]
    random = torch.Generator().manual_seed(1)
    noisy = torch.randn(2, 4, side, side, generator=random)
    text = Conditioning(torch.randn(2, 77, width, generator=random))
    pixels = torch.rand(2, 3, pair.kind.side, pair.kind.side, generator=random)
    added, t = None, torch.tensor([801, 21])
    if pair.kind.xl:
        ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(2, -1)
        added = {"text_embeds": torch.randn(2, 24, generator=random), "time_ids": ids}
        text = Conditioning(text.tokens, added["text_embeds"], {"time_ids": ids})
    down, middle = pair.theirs[0](noisy, t, text.tokens, pixels, added_cond_kwargs=added, return_dict=False)
    expected = pair.base.unet(
        noisy,
        t,
        text.tokens,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
        added_cond_kwargs=added,
    ).sample
    control = pair.controls[0]
    signal = control(noisy, t, text, control.encode(pixels))
    assert list(signal) == [*(f"skip.{k}" for k in range(len(down))), "middle"]
    for mine, its in zip(signal.values(), [*down, middle], strict=True):
        assert_equal(mine, its)
    assert_equal(pair.base.denoiser.predict(noisy, t, text, signal), expected)
    plain = pair.base.unet(noisy, t, text.tokens, added_cond_kwargs=added).sample
    assert float((plain - expected).norm() / expected.norm()) > 1e-3, "the control must matter here"


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_text_to_image(pair: Pair, scheduler: str, count: int) -> None:
    expected = pair.reference(PLAIN, scheduler, count)(**pair.given(count)).images
    assert_equal(pair.ours(scheduler, count), expected)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_guess_mode_is_the_weighting_called_diffusers(pair: Pair, scheduler: str) -> None:
    given = pair.given(1) | {"controlnet_conditioning_scale": 0.8, "guess_mode": True}
    expected = pair.reference(PLAIN, scheduler, 1)(**given).images
    injection = tether.Injection(strength=0.8, weighting="diffusers", sides="conditional")
    assert_equal(pair.ours(scheduler, 1, injections=[injection]), expected)


def test_pictures_that_are_not_square_nor_multiples_of_64(pair: Pair) -> None:
    width, height = 104, 72
    condition = pair.conditions(1)[0].resize((width, height), Image.Resampling.NEAREST)
    given = pair.given(1) | {"width": width, "height": height, "image": condition}
    expected = pair.reference(PLAIN, "ddim", 1)(**given).images
    assert expected.shape[-2:] == (height // 8, width // 8)
    assert_equal(pair.ours("ddim", 1, conditions=[condition], size=(width, height)), expected)


def test_an_empty_negative_prompt(pair: Pair) -> None:
    expected = pair.reference(PLAIN, "ddim", 1)(**pair.given(1) | {"negative_prompt": None}).images
    assert_equal(pair.ours("ddim", 1, negative_prompt=""), expected)


@pytest.fixture
def posteriors_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers starts from a sample of the autoencoder's posterior, Tether from its mean: the mean, for both."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


@pytest.mark.usefixtures("posteriors_mean")
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_image_to_image(pair: Pair, scheduler: str, count: int) -> None:
    given = pair.given(count, "control_image") | {"image": pair.photo(), "strength": 0.6}
    expected = pair.reference(FROM_PICTURE, scheduler, count)(**given).images
    assert_equal(pair.ours(scheduler, count, init=pair.photo(), strength=0.6), expected)


@pytest.mark.usefixtures("posteriors_mean")
@pytest.mark.parametrize(("strength", "count"), [(1.0, 1), (0.6, 1), (0.6, 3)])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_inpainting(pair: Pair, scheduler: str, strength: float, count: int) -> None:
    pictures = {"image": pair.photo(), "mask_image": pair.mask(), "strength": strength}
    expected = pair.reference(INPAINTING, scheduler, count)(**pair.given(count, "control_image") | pictures).images
    assert_equal(pair.ours(scheduler, count, init=pair.photo(), mask=pair.mask(), strength=strength), expected)


@pytest.mark.usefixtures("posteriors_mean")
def test_a_control_for_inpainting_is_shown_where_to_draw_as_minus_one(pair: Pair) -> None:
    """ControlNet 1.1's inpaint: the picture in [0, 1], and -1 where the mask is white."""
    shown = torch.from_numpy(np.array(pair.photo())).permute(2, 0, 1)[None].float() / 255
    white = torch.from_numpy(np.array(pair.mask()))[None, None] > 127
    given = pair.given(1, "control_image") | {"control_image": shown.masked_fill(white, -1.0)}
    pictures = {"image": pair.photo(), "mask_image": pair.mask(), "strength": 1.0}
    reference = pair.reference(INPAINTING, "ddim", 1)
    reference.prepare_control_image = lambda image, **_: torch.cat(
        [image, image]
    )  # the tensor as it is, for both sides
    expected = reference(**given | pictures).images
    control = pair.controls[0]
    try:
        control.kind = "inpaint"
        pipe = tether.Pipeline(pair.base, [control])
        ours = pipe(
            PROMPT, [pair.photo()], steps=STEPS, guidance_scale=GUIDANCE, scheduler="ddim", seed=5, output="latents",
            negative_prompt=NEGATIVE, size=(pair.kind.side,) * 2, init=pair.photo(), mask=pair.mask(), strength=1.0,
        )  # fmt: skip
        assert isinstance(ours, Tensor)
        assert_equal(ours, expected)
        with pytest.raises(tether.TetherError, match="needs to know where"):
            pipe(PROMPT, [pair.photo()], size=(pair.kind.side,) * 2)
    finally:
        control.kind = None


@pytest.fixture(scope="module", params=["tiny", chosen("sd15")])
def shown(request: pytest.FixtureRequest) -> Pair:
    """A denoiser made for inpainting: it is shown mask and masked picture, the control only the latents."""
    pair = Pair(KINDS[request.param])
    settings = dict(pair.base.unet.config) | {"in_channels": 9}
    shown = UNet2DConditionModel.from_config(settings)
    own = {name: tensor for name, tensor in pair.base.unet.state_dict().items() if not name.startswith("conv_in.")}
    shown.load_state_dict(own, strict=False, assign=True)
    pair.base.unet = shown.requires_grad_(False).eval()
    return pair


@pytest.mark.usefixtures("posteriors_mean")
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_inpainting_by_a_denoiser_made_for_it(shown: Pair, scheduler: str, count: int) -> None:
    pictures = {"image": shown.photo(), "mask_image": shown.mask(), "strength": 1.0}
    expected = shown.reference(INPAINTING, scheduler, count)(**shown.given(count, "control_image") | pictures).images
    ours = shown.ours(scheduler, count, init=shown.photo(), mask=shown.mask(), strength=1.0)
    assert_equal(ours, expected)
