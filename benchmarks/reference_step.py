"""Training step of Dual-MTGAN against a plain implementation of the same equations.

    python benchmarks/reference_step.py [--batch 8] [--threads 2] [--device cpu] [--output F.json]

`Reference` is written from the paper's equations and knows none of mtzoo's networks: six functions
on bare weights, contiguous NCHW in eager fp32, one generator pass for each of the three generated
videos, all codes and videos computed again in each phase, a discriminator call for each term, and
torch's default optimiser. It serves the recipes whose parts are dcgan, c3d, lstm, dcgan, pair and
c3d. The paper leaves open over which pictures batch norm takes its statistics; both readings are
here: over one pass (``pass``, the cheaper one) or over all that a network sees of one kind
(``step``, as mtzoo has it, with which losses are equal up to rounding).

The benchmark gives each implementation a process of its own, starts all from equal weights, lets
them take steps in turn on the same batches and draws, and prints what a step takes: time as a
ratio, operations that the dispatcher saw, memory, and how far apart the losses are. In fp32 the
losses of a first step are equal up to rounding and drift apart from there, as those of any two
orders of summation do under Adam; tests/test_reference_step.py follows them for 100 steps in
float64. On a GPU the variants that a recipe can switch stand beside, with milliseconds and the
allocator's peak; fp32 is that there, without TF32.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from report import keep, markdown, surroundings
from torch import Tensor
from torch.nn import functional as F

from mtzoo.engine import launch, memory
from mtzoo.engine.graph import WARM_UP
from mtzoo.engine.measure import Cost, Tally, ceilings, floor, ratio, wait
from mtzoo.engine.profile import distance
from mtzoo.engine.step import Step
from mtzoo.interfaces import Batch, Draws, Model, as_video
from mtzoo.objectives import dual_mtgan as paper
from mtzoo.recipe import Recipe, build_model, build_objective, load_recipe

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "dual_mtgan_weizmann.yaml"

Videos = list[Tensor]


class Reference:
    """Eq. 1 to 8 and Adam, with nothing shared and nothing arranged for speed.

    Args:
        model: Whose weights to start from; copied.
        recipe: Its objective and engine sections are followed; random choices come from `Draws`
            as mtzoo's do, so that both see the same noise and the same frames.
        statistics: ``"pass"`` or ``"step"``: what batch norm takes its statistics over.
    """

    def __init__(self, model: Model, recipe: Recipe, statistics: str = "step") -> None:
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}
        learns = {name for name, _ in model.named_parameters()}
        self.halves = {
            half: [v.requires_grad_() for k, v in self.values.items() if k in learns and top in k]
            for half, top in (("generators", "networks."), ("discriminators", "judges."))
        }
        self.pooled = statistics == "step"
        self.training = True
        self.options = dict(recipe.objective)
        self.time_bins = recipe.model["motion_encoder"]["time_bins"]
        self.bound = recipe.model["motion_encoder"]["log_variance_bound"]
        self.seed = recipe.seed
        engine = recipe.engine
        rates = (engine.learning_rate, engine.discriminator_learning_rate or engine.learning_rate)
        self.optimizers = {
            half: torch.optim.Adam(values, lr=rate, betas=engine.betas)
            for (half, values), rate in zip(self.halves.items(), rates, strict=True)
        }
        self.decay = engine.ema_decay
        self.average = [value.detach().clone() for value in self.halves["generators"]]
        self.normalised: dict[str, Tensor] = {}
        # Two layers of torch's LSTM, on weights that are copied in.
        sizes = self.values["networks.motion_generator.lstm.weight_ih_l0"].shape
        self.hidden, self.inputs = sizes[0] // 4, sizes[1]

    # Layers ----------------------------------------------------------------------------------

    def norm(self, name: str, maps: Videos) -> Videos:
        """Batch norm in training, over each entry or over all of them."""
        weight, bias = self.values[f"{name}.weight"], self.values[f"{name}.bias"]
        mean, var = self.values[f"{name}.running_mean"], self.values[f"{name}.running_var"]
        joined = [torch.cat(maps)] if self.pooled and len(maps) > 1 else maps
        training = self.training
        done = [F.batch_norm(x, mean, var, weight, bias, training=training) for x in joined]
        return list(done[0].split([len(x) for x in maps])) if len(done) < len(maps) else done

    def spectral(self, name: str) -> Tensor:
        """The weight over its largest singular value: one power iteration a phase."""
        if name not in self.normalised:
            weight = self.values[f"{name}.parametrizations.weight.original"]
            u = self.values[f"{name}.parametrizations.weight.0._u"]
            v = self.values[f"{name}.parametrizations.weight.0._v"]
            matrix = weight.flatten(1)
            with torch.no_grad():
                u.copy_(F.normalize(matrix @ v, dim=0, eps=1e-12))
                v.copy_(F.normalize(matrix.T @ u, dim=0, eps=1e-12))
            sigma = torch.dot(u.clone(), matrix @ v.clone())
            self.normalised[name] = weight / sigma
        return self.normalised[name]

    def stages(self, prefix: str, inner: str) -> list[str]:
        """Names of the stages' first layers, in order."""
        found = {
            int(name.removeprefix(prefix).split(".")[0])
            for name in self.values
            if name.startswith(prefix)
        }
        return [
            f"{prefix}{i}{inner}"
            for i in sorted(found)
            if any(
                f"{prefix}{i}{inner}.{kind}" in self.values
                and self.values[f"{prefix}{i}{inner}.{kind}"].dim() > 1
                for kind in ("weight", "parametrizations.weight.original")
            )
        ]

    # Networks --------------------------------------------------------------------------------

    def content(self, images: Videos) -> Videos:
        """E_C: 4x4 convolutions of stride 2, batch norm, leaky ReLU of 0.2."""
        prefix = "networks.content_encoder."
        for name in self.stages(f"{prefix}tower.", ".0"):
            images = [F.conv2d(x, self.values[f"{name}.weight"], None, 2, 1) for x in images]
            images = [F.leaky_relu(x, 0.2) for x in self.norm(f"{name[:-1]}1", images)]
        head, bias = self.values[f"{prefix}head.weight"], self.values[f"{prefix}head.bias"]
        return [F.conv2d(x, head, bias).flatten(1) for x in images]

    def motion(self, videos: Videos, frozen: bool = False) -> list[tuple[Tensor, Tensor]]:
        """E_M: 3x3x3 convolutions; all halve space, the second and third time too."""
        prefix = "networks.motion_encoder."
        values = self.values
        if frozen:
            self.values = {name: value.detach() for name, value in values.items()}
        maps = [video.transpose(1, 2).contiguous() for video in videos]
        for stage, name in enumerate(self.stages(f"{prefix}features.", "")):
            stride = (2 if stage in (1, 2) else 1, 2, 2)
            maps = [F.conv3d(x, self.values[f"{name}.weight"], None, stride, 1) for x in maps]
            index = int(name.rpartition(".")[2])
            maps = self.norm(f"{prefix}features.{index + 1}", maps)
            maps = [F.leaky_relu(x, 0.2) for x in maps]
        codes = []
        for x in maps:
            flat = F.adaptive_avg_pool3d(x, (self.time_bins, 4, 4)).flatten(1)
            mean, log_variance = (
                F.linear(
                    flat,
                    self.values[f"{prefix}head.{part}.weight"],
                    self.values[f"{prefix}head.{part}.bias"],
                )
                for part in ("mean", "log_variance")
            )
            if self.bound:
                log_variance = self.bound * torch.tanh(log_variance / self.bound)
            codes.append((mean, log_variance))
        self.values = values
        return codes

    def unroll(self, code: Tensor, frames: int) -> Tensor:
        """G_T: the code and the time, two LSTM layers, a linear layer, layer norm."""
        prefix = "networks.motion_generator."
        half = (self.inputs - code.shape[1]) // 2
        device = code.device
        periods = 4.0 * (256.0 / 4.0) ** (torch.arange(half, device=device) / max(half - 1, 1))
        angles = 2 * torch.pi * torch.arange(frames, device=device)[:, None] / periods
        steps = torch.cat([angles.sin(), angles.cos()], 1).expand(len(code), -1, -1)
        x = torch.cat([code[:, None].expand(-1, frames, -1), steps.to(code.dtype)], 2)
        names = [
            f"{prefix}lstm.{kind}_{to}_l{layer}"
            for layer in (0, 1)
            for kind, to in (("weight", "ih"), ("weight", "hh"), ("bias", "ih"), ("bias", "hh"))
        ]
        zeros = code.new_zeros(2, len(code), self.hidden)
        weights = [self.values[name] for name in names]
        x = torch.lstm(x, (zeros, zeros), weights, True, 2, 0.0, True, False, True)[0]
        x = F.linear(x, self.values[f"{prefix}output.weight"], self.values[f"{prefix}output.bias"])
        weight, bias = self.values[f"{prefix}norm.weight"], self.values[f"{prefix}norm.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias)

    def paint(self, codes: list[tuple[Tensor, Tensor]]) -> Videos:
        """G_I: 4x4 transposed convolutions on [z_c, z_m], a pass for each entry."""
        prefix = "networks.image_generator."
        first = self.values[f"{prefix}start.0.linear.weight"]
        batch, frames = codes[0][1].shape[:2]
        maps = []
        for content, motion in codes:
            if content.dim() == 2:
                content = content[:, None].expand(-1, frames, -1)
            joined = torch.cat([content, motion], 2).flatten(0, 1)
            flat = F.linear(joined, first).unflatten(1, (4, 4, -1))
            maps.append(flat.permute(0, 3, 1, 2).contiguous())
        maps = [x.relu() for x in self.norm(f"{prefix}start.1", maps)]
        for name in self.stages(f"{prefix}blocks.", ""):
            index = int(name.rpartition(".")[2])
            maps = [F.conv_transpose2d(x, self.values[f"{name}.weight"], None, 2, 1) for x in maps]
            maps = [x.relu() for x in self.norm(f"{prefix}blocks.{index + 1}", maps)]
        head, bias = self.values[f"{prefix}head.weight"], self.values[f"{prefix}head.bias"]
        pictures = [F.conv_transpose2d(x, head, bias, 2, 1).tanh() for x in maps]
        return [x.unflatten(0, (batch, frames)) for x in pictures]

    def judge_pair(self, condition: Tensor, frame: Tensor) -> Tensor:
        """D_I: 4x4 convolutions on two pictures joined by channel."""
        prefix = "judges.image_discriminator."
        x = torch.cat([condition, frame], 1)
        for name in self.stages(f"{prefix}tower.", ".0"):
            x = F.conv2d(x, self.spectral(name), self.values[f"{name}.bias"], 2, 1)
            x = F.leaky_relu(x, 0.2)
        name = f"{prefix}head"
        return F.conv2d(x, self.spectral(name), self.values[f"{name}.bias"]).flatten()

    def judge_video(self, video: Tensor) -> Tensor:
        """D_V: convolutions of 4 in time with stride 2, then of 3 with stride 1."""
        prefix = "judges.video_discriminator."
        x = video.transpose(1, 2).contiguous()
        for name in self.stages(f"{prefix}features.", ".0"):
            weight = self.spectral(name)
            stride = (2 if weight.shape[2] == 4 else 1, 2, 2)
            x = F.leaky_relu(F.conv3d(x, weight, self.values[f"{name}.bias"], stride, 1), 0.2)
        name = f"{prefix}judge"
        x = F.conv3d(x, self.spectral(name), self.values[f"{name}.bias"])
        return x.flatten(1).mean(1)

    @torch.no_grad()
    def sample(self, image: Tensor, code: Tensor, frames: int, *, together: bool = True) -> Tensor:
        """V~_{y,s} of Eq. 3 with fixed batch statistics: ``(B, T, C, H, W)``.

        Args:
            image: y.
            code: z_M.
            frames: How many to make.
            together: Whether G_I makes all frames in one pass, or each in one as Eq. 3 reads and
                as published code has it.
        """
        self.training = False
        (still,) = self.content([image.contiguous()])
        motion = self.unroll(code, frames)
        parts = [motion] if together else motion.split(1, dim=1)
        video = torch.cat([self.paint([(still, part)])[0] for part in parts], 1)
        self.training = True
        return video

    # Equations -------------------------------------------------------------------------------

    def videos(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Codes and the three videos of Eq. 3."""
        count, frames = batch.video.shape[:2]
        content, still = self.content([batch.video.flatten(0, 1), batch.target])
        content = content.unflatten(0, (count, frames))
        ((mean, log_variance),) = self.motion([batch.video])
        width = mean.shape[1]
        code = mean + draws.normal(count, width, paper._CODE) * (0.5 * log_variance).exp()
        prior = draws.normal(count, width, paper._PRIOR).to(mean.dtype)
        deterministic, stochastic = self.unroll(code, frames), self.unroll(prior, frames)
        own, moved, drawn = self.paint(
            [(content, deterministic), (still, deterministic), (still, stochastic)]
        )
        return {
            "content": content,
            "mean": mean,
            "log_variance": log_variance,
            "code": code,
            "own": own,
            "moved": moved,
            "drawn": drawn,
        }

    def discriminator_loss(self, batch: Batch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus Eq. 5 and 6, with both V~_y in the place of the generated one."""
        made = self.videos(batch, draws)
        own, targets = made["own"].detach(), [made["moved"].detach(), made["drawn"].detach()]
        first, y = batch.video[:, 0], batch.target

        def pick(video: Tensor, stream: int) -> Tensor:
            rows = torch.arange(len(video), device=video.device)
            return video[rows, draws.integers(*video.shape[:2], stream)]

        frame = pick(batch.video, paper._FRAME_V)
        image = F.softplus(-self.judge_pair(first, frame)).mean()
        fake = self.judge_pair(first, pick(own, paper._FRAME_X))
        wrong = self.judge_pair(y, frame)
        image = image + 0.5 * (F.softplus(fake).mean() + F.softplus(wrong).mean())
        image = image + F.softplus(-self.judge_pair(y, y)).mean()
        wrong = self.judge_pair(first, pick(batch.target_video, paper._FRAME_VY))
        for i, video in enumerate(targets):
            fake = self.judge_pair(y, pick(video, paper._FRAME_Y + i * paper._OTHER))
            image = image + 0.25 * F.softplus(fake).mean()
        image = image + 0.5 * F.softplus(wrong).mean()

        video_loss = F.softplus(-self.judge_video(batch.video)).mean()
        video_loss = video_loss + F.softplus(self.judge_video(own)).mean()
        video_loss = video_loss + F.softplus(-self.judge_video(batch.target_video)).mean()
        for video in targets:
            video_loss = video_loss + 0.5 * F.softplus(self.judge_video(video)).mean()
        loss = image + video_loss
        return loss, {"loss": loss, "image": image, "video": video_loss}

    def generator_loss(
        self, batch: Batch, draws: Draws, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 8 as the encoders and generators minimise it."""
        options = self.options
        made = self.videos(batch, draws)
        content, own = made["content"], made["own"]
        consistency = (content[:, 1:] - content[:, :-1]).abs().mean()
        reconstruction = (own - batch.video).abs().mean()
        mean, log_variance = made["mean"], made["log_variance"]
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        again = self.motion([own, made["moved"]], frozen=True)
        code = made["code"].detach()
        motion = sum((found - code).abs().mean() for found, _ in again)

        first, y = batch.video[:, 0], batch.target

        def pick(video: Tensor, stream: int) -> Tensor:
            rows = torch.arange(len(video), device=video.device)
            return video[rows, draws.integers(*video.shape[:2], stream)]

        image = 0.5 * F.softplus(-self.judge_pair(first, pick(own, paper._FRAME_X))).mean()
        video_loss = F.softplus(-self.judge_video(own)).mean()
        for i, video in enumerate((made["moved"], made["drawn"])):
            frame = pick(video, paper._FRAME_Y + i * paper._OTHER)
            image = image + 0.25 * F.softplus(-self.judge_pair(y, frame)).mean()
            video_loss = video_loss + 0.5 * F.softplus(-self.judge_video(video)).mean()

        def grown(start: int, ramp: int) -> float:
            return min(1.0, (step - start + 1) / ramp) if ramp else 1.0

        adversarial = grown(options["adversarial_start"], options["adversarial_ramp"])
        loss = options["lambda_1"] * (
            grown(0, options["content_ramp"]) * options["content_weight"] * consistency
            + reconstruction
            + grown(options["motion_start"], options["motion_ramp"])
            * options["motion_weight"]
            * motion
        )
        loss = loss + options["lambda_kl"] * grown(0, options["kl_ramp"]) * kl
        loss = loss + options["lambda_i"] * adversarial * image
        loss = loss + options["lambda_v"] * adversarial * video_loss
        return loss, {
            "loss": loss,
            "content": consistency,
            "reconstruction": reconstruction,
            "kl": kl,
            "motion": motion,
            "image": image,
            "video": video_loss,
        }

    def __call__(self, step: int, batch: Batch, draws: Draws) -> Mapping[str, Mapping[str, Tensor]]:
        """One step with all terms on; the losses by phase and name."""
        batch = Batch(*(part.contiguous() for part in batch))
        found = {}
        phases: dict[str, tuple[str, Callable[[], tuple[Tensor, dict[str, Tensor]]]]] = {
            "discriminator": ("discriminators", lambda: self.discriminator_loss(batch, draws)),
            "generator": ("generators", lambda: self.generator_loss(batch, draws, step)),
        }
        for phase, (half, loss_of) in phases.items():
            self.normalised.clear()
            for optimizer in self.optimizers.values():
                optimizer.zero_grad()
            loss, terms = loss_of()
            loss.backward()
            self.optimizers[half].step()
            found[phase] = {name: value.detach() for name, value in terms.items()}
        self.normalised.clear()
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for kept, value in zip(self.average, self.halves["generators"], strict=True):
                kept.mul_(decay).add_(value, alpha=1 - decay)
        return found


def random_batch(generator: torch.Generator, count: int, frames: int, side: int) -> Batch:
    """Pictures of noise: the cost of a step does not depend on what they show."""
    size = (count, frames, side, side, 3)
    one, two = (torch.randint(0, 256, size, dtype=torch.uint8, generator=generator) for _ in "xy")
    video, target_video = as_video(one), as_video(two)
    return Batch(video, target_video, target_video[:, 1])


def work(
    name: str,
    recipe: Recipe,
    sizes: tuple[int, int, int],
    threads: int,
    line: Any,
    where: str = "cpu",
) -> None:
    """One implementation in a process of its own, which does a step for each number it is sent.

    Answers with the seconds and the losses; to a number below 0 with the cost of the step instead
    of its seconds; to ``None`` with the largest bytes that the process held resident, or on a GPU
    those of its allocator, and ends.
    """
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(recipe.seed)
    device = torch.device(where)
    count, frames, side = sizes
    model = build_model(recipe.model, resolution=side, channels=3, where=recipe.where).to(device)
    if not name.startswith("reference") or "memory kept" in name:
        memory.keep_freed()  # as `mtzoo fit` does
    if name.startswith("reference"):
        run = Reference(model, recipe, "pass" if "a pass" in name else "step")
    else:
        engine = dataclasses.replace(
            recipe.engine,
            compile="compiled" in name,
            cuda_graph="CUDA graph" in name,
            precision="bf16" if "bf16" in name else "fp32",
        )
        objective = build_objective(recipe.objective, where=recipe.where)
        autocast = launch.fabric(dataclasses.replace(engine, accelerator=where)).autocast
        run = Step(model, objective, engine, seed=recipe.seed, autocast=autocast)
    generator = torch.Generator().manual_seed(recipe.seed)
    while (number := line.recv()) is not None:
        batch = Batch(*(p.to(device) for p in random_batch(generator, count, frames, side)))
        draws = Draws(recipe.seed, abs(number), 0, count, device)
        losses: Mapping[str, Mapping[str, Tensor]] = {}
        if number < 0:
            with Tally() as tally:
                losses = run(-number, batch, draws)
            answer: object = dataclasses.asdict(tally.cost)
        else:
            wait(device)
            began = time.perf_counter()
            losses = run(number, batch, draws)
            wait(device)
            answer = time.perf_counter() - began
        plain = {phase: {k: float(v) for k, v in terms.items()} for phase, terms in losses.items()}
        line.send((answer, plain))
    if device.type == "cuda":
        line.send(torch.cuda.max_memory_allocated(device))
    else:
        line.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def hidden(name: str) -> bool:
    """Whether the dispatcher does not see an implementation's operations."""
    return "compiled" in name or "CUDA graph" in name


def compare(
    recipe: Recipe,
    names: list[str],
    *,
    batch: int,
    frames: int,
    side: int,
    threads: int,
    step: int,
    repeats: int,
    device: torch.device,
) -> dict[str, object]:
    """The named implementations in turn, each in a process of its own, one at work at a time.

    Args:
        recipe: Whose step.
        names: ``mtzoo`` first; see `work`.
        batch: Pairs.
        frames: Of a clip.
        side: Of a frame.
        threads: Of each process.
        step: Number of the first step; all terms should be on.
        repeats: Rounds that are timed, after one that is counted and one that warms up; on a GPU
            after those before a recording, too.
        device: Where the networks are.
    """
    context = multiprocessing.get_context("spawn")
    lines = {}
    for name in names:
        lines[name], end = context.Pipe()
        arguments = (name, recipe, (batch, frames, side), threads, end, device.type)
        context.Process(target=work, args=arguments, daemon=True).start()
    answers: dict[str, list[Any]] = {name: [] for name in names}
    before = 2 + (WARM_UP + 1 if device.type == "cuda" else 0)
    for number in [-step, *range(step + 1, step + repeats + before)]:
        for name, line in lines.items():
            line.send(abs(number) if hidden(name) else number)
            answers[name].append(line.recv())
    found = {}
    torch.backends.cudnn.allow_tf32 = False
    kinds = {"bf16": torch.bfloat16} if any("bf16" in name for name in names) else {}
    kinds["fp32"] = torch.float32
    limits = {kind: ceilings(device, dtype) for kind, dtype in kinds.items()}
    # Weights and both of Adam's moments are read and written, gradients written and read.
    weights = build_model(recipe.model, resolution=side, channels=3, where=recipe.where)
    traffic = sum(8 * 4 * parameter.numel() for parameter in weights.parameters())
    traffic += 2 * batch * frames * side * side * 3 * 4
    ours = Cost(**answers[names[0]][0][0])
    least = {kind: floor(ours, traffic, limit) for kind, limit in limits.items()}
    times = {name: [seconds for seconds, _ in answers[name][before:]] for name in names}
    for name, line in lines.items():
        line.send(None)
        losses = [told for _, told in answers[name]]
        expected = [told for _, told in answers[names[0]]]
        found[name] = {
            "time": ratio(times[name], times[names[0]]),
            "seconds": statistics.median(times[name]),
            "above_floor": min(times[name]) / least["bf16" if "bf16" in name else "fp32"],
            **(answers[name][0][0] if isinstance(answers[name][0][0], dict) else {}),
            ("allocated" if device.type == "cuda" else "resident"): line.recv(),
            **({"ms": 1e3 * statistics.median(times[name])} if device.type == "cuda" else {}),
            "difference": distance(expected[0], losses[0]),
            "difference at the end": distance(expected[-1], losses[-1]),
        }
    return {
        "recipe": recipe.name,
        "batch": batch,
        "repeats": repeats,
        "ceilings": limits,
        "results": found,
    }


def table(result: Mapping[str, Any]) -> str:
    """The comparison for people."""
    on_gpu = any("ms" in entry for entry in result["results"].values())
    rows = [
        (
            name,
            f"{entry['time']:.2f}",
            f"{entry['above_floor']:.2f}",
            f"{entry['operations']:,}" if "operations" in entry else "-",
            f"{entry['flops'] / 1e9:,.0f}" if "flops" in entry else "-",
            f"{entry['moved'] / 2**30:.1f}" if "moved" in entry else "-",
            f"{entry['peak'] / 2**20:,.0f}" if "peak" in entry else "-",
            f"{entry['allocated' if on_gpu else 'resident'] / 2**20:,.0f}",
            f"{entry['difference']:.0e}",
            *((f"{entry['ms']:.1f}",) if on_gpu else ()),
        )
        for name, entry in result["results"].items()
    ]
    head = (
        "step",
        "time, as a multiple of mtzoo's",
        "times the floor of mtzoo's arithmetic",
        "operations",
        "GF",
        "GiB moved",
        "peak MiB beside the weights",
        "allocator's peak, MiB" if on_gpu else "largest resident MiB",
        "largest relative difference of a loss in the first step",
        *(("ms",) if on_gpu else ()),
    )
    return markdown(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--step", type=int, default=20000)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compiled", action="store_true", help="with engine.compile, too")
    parser.add_argument("--output", type=Path)
    args, overrides = parser.parse_known_args()
    torch.set_num_threads(args.threads)
    kinds = ("reference, statistics a pass", "reference, statistics a step")
    if args.device == "cuda":
        switched = ("CUDA graph", "bf16", "bf16, CUDA graph", "bf16, compiled, CUDA graph")
        names = ["mtzoo", *(f"mtzoo, {how}" for how in switched), *kinds]
    else:
        names = ["mtzoo", *kinds, *(f"{kind}, memory kept" for kind in kinds)]
    if args.compiled:
        names.insert(1, "mtzoo, compiled")
    recipe = load_recipe(args.recipe, overrides)
    result = compare(
        recipe,
        names,
        batch=args.batch,
        frames=int(recipe.data["frames"]),
        side=int(recipe.data.get("resolution", 64)),
        threads=args.threads,
        step=args.step,
        repeats=args.repeats,
        device=torch.device(args.device),
    )
    keep(args.output, {**surroundings(args.device), **result})
    print(table(result))


if __name__ == "__main__":
    main()
