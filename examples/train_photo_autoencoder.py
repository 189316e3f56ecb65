"""Train a small autoencoder in the TAESD layout on a folder of photographs: the weights named "photo".

::

    python examples/train_photo_autoencoder.py FOLDER… --out OUT --held-out NAME --minutes 120 --card sources.txt

    crops ────────► encoder ──► latents ────────────┬─ + noise of 8 bits ──► decoder ──► pictures, to be the crops
    small copies ─► encoder ──► latents, bicubic ×2 ┘                                    or what the copies are of

The network is plain Keras 3 and starts as an 8 × 8 mean and its bilinear interpolation, in the first three channels
of every map; the other 61 are random and hardly reach what comes out. Its 64 → 64 convolutions are trained by Muon,
the rest by Adam. A run goes on from the last checkpoint in ``--out``; counted in ``--steps`` and not in minutes it
repeats bit for bit.

Source of the optimiser: Jordan et al. 2024, Muon, https://kellerjordan.github.io/posts/muon, as Keras has it.
"""

import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import click
import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from evaluate_photo_autoencoder import (
    draw_sheet,
    in_half_precision,
    make_pair,
    mean_of,
    measure_picture,
    print_figures,
    through_bytes,
)
from photo_batches import Batch, Batches, Picture, read_photographs
from taesd_core.checkpoint import save_checkpoint
from taesd_core.layers import Layers, convolutions, decoder_layers, encoder_layers
from taesd_core.tensors import ConvolutionTensors, Tensors
from taesd_core.whole_image import build_whole_image_model

CHANNELS = 4
MUON_RATE = 2.4e-3
ADAM_RATE = 4e-4
AVERAGE = 0.995
"""How much of the moving average of the weights a step keeps."""
REACH = 1.6
"""The first three latents start as the mean colour, from -REACH to REACH."""
SIZES = ((0.0, 64, 10, 2), (0.6, 96, 5, 1), (0.85, 128, 3, 1))
"""From which fraction of the budget on: size of the crops in px, how many, how many of them upscaled."""
EARLY, LATE = (1.0, 2.0, 0.3, 0.1), (0.2, 20.0, 0.1, 0.1)
"""Weights of absolute errors, squared errors, gradients and colour; what begins with detail ends with noise."""
LATE_FROM = 0.6


class Muon(keras.optimizers.Muon):
    """Keras' Muon, which leaves convolutions to Adam, for 64 → 64 convolutions as matrices of 576 × 64."""

    def _should_use_adamw(self, variable):
        return tuple(variable.shape) != (3, 3, 64, 64)

    def zeropower_via_newtonschulz5(self, x, steps):
        """Return the nearest matrix that is orthogonal."""
        return ops.reshape(super().zeropower_via_newtonschulz5(ops.reshape(x, (-1, 64)), steps), x.shape)


class Autoencoder(keras.Model):
    """Encoder and decoder, and what is asked of both together.

    Args:
        precision: of the 64 → 64 convolutions, "float32" or "bfloat16". Latents and weights are float32.
    """

    def __init__(self, precision: str = "float32") -> None:
        super().__init__()
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
        self.encoder = build_whole_image_model(encoder_layers(CHANNELS))
        self.decoder = build_whole_image_model(decoder_layers(CHANNELS))
        keras.config.set_dtype_policy(before)
        latent_side = [convolutions_of(self.encoder)[-1], convolutions_of(self.decoder)[0]]
        for layer in [*latent_side, *(each for each in self.decoder.layers if "activation" in each.name)]:
            layer.dtype_policy = "float32"
        start_as_means(encoder_layers(CHANNELS), self.encoder)
        start_as_means(decoder_layers(CHANNELS), self.decoder)

    def call(self, batch, training=False):
        """Return (pictures, latents) of a batch."""
        batch = {name: ops.convert_to_tensor(values) for name, values in batch.items()}
        n_plain = ops.shape(batch["plain"])[0]
        latents = self.encoder(ops.concatenate([batch["plain"], batch["small"]]))
        upscaled = ops.einsum("ij,bjkc,lk->bilc", batch["bicubic"], latents[n_plain:], batch["bicubic"])
        latents_seen = ops.concatenate([latents[:n_plain], upscaled]) + batch["noise"]
        return ops.cast(self.decoder(latents_seen), "float32"), latents

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return the loss: errors, gradients at two scales, mean colour, and latents beyond ±2.6."""
        pictures, latents = y_pred
        # PyTorch's trainer hands on what it was given.
        x = {name: ops.convert_to_tensor(values) for name, values in x.items()}
        n_plain = ops.shape(x["plain"])[0]
        plain = measure_loss(pictures[:n_plain] - x["plain"], x["mix"])
        # The zeros around an upscaled piece stand in its middle for what the network would see there.
        upscaled = measure_loss((pictures[n_plain:] - x["large"])[:, 8:-8, 8:-8], x["mix"])
        return plain + 0.1 * upscaled + 0.05 * ops.mean(ops.square(ops.relu(ops.abs(latents) - 2.6)))


def measure_loss(errors, mix):
    """Return the sum of the terms of (batch, height, width, 3) errors, weighted by ``mix``."""
    halves = ops.average_pool(errors, (2, 2), (2, 2))
    terms = (
        ops.mean(ops.abs(errors)),
        ops.mean(ops.square(errors)),
        _gradients(errors) + 0.5 * _gradients(halves),
        ops.mean(ops.abs(ops.average_pool(halves, (4, 4), (4, 4)))),
    )
    return sum(mix[number] * term for number, term in enumerate(terms))


def _gradients(errors):
    down, right = errors[:, 1:] - errors[:, :-1], errors[:, :, 1:] - errors[:, :, :-1]
    return ops.mean(ops.abs(down)) + ops.mean(ops.abs(right))


def convolutions_of(model: keras.Model) -> list[keras.layers.Conv2D]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]


def start_as_means(layers: Layers, model: keras.Model) -> None:
    """Set the weights so that channels 0 to 2 carry colours: means on the way down, interpolation on the way up."""
    identity = np.outer([0, 1, 0], [0, 1, 0])
    mean = np.outer([0, 1, 1], [0, 1, 1]) / 4
    tent = np.outer([1, 2, 1], [1, 2, 1]) / 16
    colours = range(3)
    random = np.random.default_rng(0)
    for (_, inner, convolution), layer in zip(convolutions(layers), convolutions_of(model), strict=True):
        n_in, n_out = convolution.n_in, convolution.n_out
        kernel = random.normal(0, np.sqrt(2 / (9 * n_in)), (3, 3, n_in, n_out))
        bias = np.zeros(n_out)
        if inner is not None:
            # A block adds the result of three convolutions; without the last of them it changes nothing.
            kernel *= inner[1] < 4
        elif n_out == CHANNELS:
            kernel = random.normal(0, 0.01, kernel.shape)
            kernel[:, :, :3, :3] = 0
            kernel[:, :, colours, colours] = identity[..., None] * 2 * REACH
            bias[:3] = -REACH
        elif n_in == CHANNELS:
            kernel[..., :3] = 0
            # Clamp is not quite straight: 6 % make up for it.
            kernel[:, :, colours, colours] = identity[..., None] * 1.06 / (2 * REACH)
            bias[:3] = 0.5
        elif n_out == 3:
            kernel = random.normal(0, 0.01, kernel.shape)
            kernel[:, :, :3] = 0
            kernel[:, :, colours, colours] = identity[..., None]
        else:
            kernel[:, :, :3] *= 0.3
            kernel[..., :3] = 0
            taps = identity if n_in == 3 else mean if convolution.stride == 2 else tent
            kernel[:, :, colours, colours] = taps[..., None]
        layer.set_weights([kernel, bias] if convolution.bias else [kernel])


def to_numpy(variable: keras.Variable) -> NDArray:
    """Return a copy of a variable; the sum is a plain tensor, which every backend converts without complaint."""
    return ops.convert_to_numpy(ops.add(variable, 0))


def find_fraction(step: int, seconds: float, n_steps: int | None, minutes: float | None) -> float:
    """Return how much of the budget is spent."""
    return max(step / n_steps if n_steps else 0, seconds / (60 * minutes) if minutes else 0)


def find_rate(step: int, fraction: float) -> float:
    """Return the learning rate, relative to its largest: 40 steps up, level to 0.3 of the budget, then down to 0."""
    return min(1, (step + 1) / 40) * min(1, max(0.01, (1 - fraction) / 0.7))


def find_mix(fraction: float) -> NDArray[np.float32]:
    """Return the weights of the loss' terms."""
    late = np.clip((fraction - LATE_FROM) / (0.9 - LATE_FROM), 0, 1)
    return ((1 - late) * np.array(EARLY) + late * np.array(LATE)).astype(np.float32)


class Training:
    """A model, its optimiser and where they stand."""

    def __init__(self, precision: str) -> None:
        self.model = Autoencoder(precision)
        self.optimizer = Muon(
            MUON_RATE, adam_lr_ratio=ADAM_RATE / MUON_RATE, adam_beta_2=0.98, adam_weight_decay=None,
            weight_decay=None, rms_rate=None, global_clipnorm=1.0, use_ema=True, ema_momentum=AVERAGE,
        )  # fmt: skip
        self.optimizer.build(self.model.trainable_variables)
        # XLA compiles for minutes on a CPU and is no faster there.
        self.model.compile(optimizer=self.optimizer, jit_compile=False)
        self.step = 0
        self.seconds = 0.0

    def train(self, batch: Batch, rate: float) -> float:
        """Take one step and return its loss."""
        self.optimizer.learning_rate.assign(MUON_RATE * rate)
        self.step += 1
        # Keras reports the mean since the last reset.
        self.model.reset_metrics()
        return float(self.model.train_on_batch(batch))

    def save(self, path: Path) -> None:
        """Write everything to a file, so that a kill leaves the old file or the new one."""
        part = path.with_suffix(".part.npz")
        values = {f"{number:04}": to_numpy(each) for number, each in enumerate(self._variables())}
        np.savez(part, step=self.step, seconds=self.seconds, **values)
        part.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from what ``save`` wrote."""
        with np.load(path) as saved:
            self.step, self.seconds = int(saved["step"]), float(saved["seconds"])
            for number, each in enumerate(self._variables()):
                each.assign(saved[f"{number:04}"])

    def averages(self) -> tuple[Tensors, Tensors]:
        """Return the moving averages of the weights: encoder, decoder."""
        averages = self.optimizer._model_variables_moving_average
        found = {id(each): mean for each, mean in zip(self.model.trainable_variables, averages, strict=True)}
        return tuple(
            tuple(
                ConvolutionTensors(
                    to_numpy(found[id(layer.kernel)]),
                    to_numpy(found[id(layer.bias)]) if layer.use_bias else None,
                )
                for layer in convolutions_of(part)
            )
            for part in (self.model.encoder, self.model.decoder)
        )

    def _variables(self) -> list:
        return [*self.model.trainable_variables, *self.optimizer.variables]


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of checkpoints and results.")
@click.option("--held-out", multiple=True, help="Photographs to measure with and not to train on, without .png.")
@click.option("--minutes", type=float, help="Budget by the clock; it goes on while the process is stopped.")
@click.option("--steps", "n_steps", type=int, help="Budget in steps.")
@click.option("--seed", default=0, show_default=True)
@click.option("--precision", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16"]))
@click.option("--card", type=click.Path(exists=True), help="Text: the photographs' sources and licences.")
@click.option("--save-minutes", default=5.0, show_default=True, help="Between two checkpoints.")
def main(folders, out, held_out, minutes, n_steps, seed, precision, card, save_minutes):
    """Train on the photographs in FOLDERS and write the pair, with a model card, to --out."""
    if not minutes and not n_steps:
        raise click.UsageError("No budget: give --minutes or --steps.")
    out.mkdir(parents=True, exist_ok=True)
    photographs, kept = read_photographs(folders, held_out)
    megapixels = sum(each.shape[0] * each.shape[1] for each in photographs) / 1e6
    click.echo(f"{len(photographs)} pictures, {megapixels:.1f} Mpx; held out: {', '.join(kept) or 'none'}")
    batches, training, checkpoint = Batches(photographs, seed), Training(precision), out / "checkpoint.npz"
    if checkpoint.exists():
        training.restore(checkpoint)
        click.echo(f"goes on at step {training.step}")
    began = time.monotonic() - training.seconds
    reported, mean_loss = time.monotonic(), None
    while (fraction := find_fraction(training.step, time.monotonic() - began, n_steps, minutes)) < 1:
        _, size_px, n_plain, n_small = [each for each in SIZES if fraction >= each[0]][-1]
        batch = batches.make(training.step, size_px, n_plain, n_small) | {"mix": find_mix(fraction)}
        rate = find_rate(training.step, fraction)
        loss = training.train(batch, rate)
        mean_loss = loss if mean_loss is None else 0.98 * mean_loss + 0.02 * loss
        training.seconds = time.monotonic() - began
        if time.monotonic() - reported > 60 * save_minutes:
            reported = time.monotonic()
            training.save(checkpoint)
            click.echo(
                f"{training.seconds / 60:.1f} min, step {training.step}, {fraction:.1%}, rate {rate:.3f}, "
                f"crops {size_px} px, loss {mean_loss:.4f}, {describe_middles(training, kept)}"
            )
    training.save(checkpoint)
    finish(training, out, kept, Path(card).read_text() if card else "")


def describe_middles(training: Training, kept: dict[str, Picture]) -> str:
    """Return how well the middles of the photographs held out come through 8 bits, in a few words."""
    if not kept:
        return "nothing held out"
    pair, found = make_pair(*training.averages()), []
    for picture in kept.values():
        top, left = (max(length - 256, 0) // 2 for length in picture.shape[:2])
        found.append(through_bytes(pair, picture[top : top + 256, left : left + 256]))
    return f"middles {np.mean(found):.2f} dB in 8 bits"


def finish(training: Training, out: Path, kept: dict[str, Picture], sources: str) -> None:
    """Write the two files with their card, print what the photographs held out say of them, and draw the sheet."""
    averages = training.averages()
    card = {
        "name": "photo",
        "architecture": "TAESD, 4 channels",
        "latents": "about -3 to 3; not compatible with Stable Diffusion",
        "training": f"from scratch, {training.step} steps in {training.seconds / 60:.0f} minutes by the clock; "
        + ", then ".join(f"{plain + small} crops of {size} px" for _, size, plain, small in SIZES),
        "photographs": sources,
    }
    if kept:
        pair = make_pair(*(in_half_precision(each) for each in averages))
        measured = {name: measure_picture(pair, picture) for name, picture in kept.items()}
        card["held_out"] = ", ".join(kept)
        card["figures"] = json.dumps({name: round(value, 3) for name, value in mean_of(measured).items()})
        print_figures(measured)
        full = np.mean([through_bytes(make_pair(*averages), picture) for picture in kept.values()])
        click.echo(f"float16 weights lose {full - mean_of(measured)['dB in 8 bits']:.4f} dB")
        draw_sheet(out / "sheet.png", measured)
    for part, tensors in zip(("encoder", "decoder"), averages, strict=True):
        save_checkpoint(out / f"photo_{part}.safetensors", part, tensors, card | {"part": part})


if __name__ == "__main__":
    main()
