"""What is particular to the 2D components; the contract that all share is in test_components.py."""

import copy
import math

import pytest
import timm
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

import mtzoo.components.content_encoders.timm as timm_encoder
from mtzoo.components.image_generators.layered import LayeredImageGenerator
from mtzoo.components.image_generators.skip import SkipImageGenerator
from mtzoo.components.image_generators.warping import WarpingImageGenerator
from mtzoo.errors import MtzooError
from mtzoo.nn.blocks2d import CodeToMap, ModulatedConv2d, join_codes, stage_widths
from mtzoo.nn.norm import dcgan_init_, norm2d, norm3d, spectral
from mtzoo.nn.warp import warp, warp_affine
from mtzoo.registries import create, describe

ENCODERS = ("dcgan", "resnet", "timm")
GENERATORS = ("dcgan", "resnet", "modulated")
DISCRIMINATORS = ("pair", "two_tower", "patch")
KINDS = [
    *(("content_encoders", name) for name in ENCODERS),
    *(("image_generators", name) for name in GENERATORS),
    *(("image_discriminators", name) for name in DISCRIMINATORS),
]
WITH_NORM = [(kind, name) for kind, name in KINDS if name not in ("timm", "modulated")]


def build(kind, name, resolution=32, channels=3, **options):
    torch.manual_seed(0)
    takes = {"resolution": resolution, "channels": channels}
    if kind == "image_generators":
        takes |= {"content_dim": 6, "frame_motion_dim": 5}
    return create(kind, name, **takes, **{**describe(kind, name).card.tiny, **options})


def inputs(kind, resolution=32, channels=3, batch=2):
    """Arguments of ``forward``, pictures in channels_last as videos give them."""
    random = torch.Generator().manual_seed(1)
    if kind == "image_generators":
        content = torch.randn(batch, 6, generator=random)
        return content, torch.randn(batch, 3, 5, generator=random)
    shape = (batch, resolution, resolution, channels)
    pictures = [(torch.rand(shape, generator=random) * 2 - 1).permute(0, 3, 1, 2) for _ in range(2)]
    return pictures[:1] if kind == "content_encoders" else pictures


# Sizes


@pytest.mark.parametrize("resolution", [32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_every_resolution_and_channel_count(kind, name, resolution, channels):
    module = build(kind, name, resolution, channels)
    result = module(*inputs(kind, resolution, channels))
    if kind == "content_encoders":
        assert result.shape == (2, module.content_dim)
    elif kind == "image_generators":
        assert result.shape == (2, 3, channels, resolution, resolution)
    elif name == "patch":
        assert result.shape == (2, resolution // 8 - 2, resolution // 8 - 2)
    else:
        assert result.shape == (2,)


@pytest.mark.parametrize("resolution", [16, 48, 63, 256])
@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_other_resolutions_are_refused(kind, name, resolution):
    with pytest.raises(MtzooError, match=f"'{name}': resolution {resolution} is not supported"):
        build(kind, name, resolution)


@pytest.mark.parametrize(("kind", "name"), [k for k in KINDS if k[1] != "timm"])
def test_sizes_that_cannot_be_are_refused(kind, name):
    with pytest.raises(MtzooError, match="width must be a whole number of at least 1, not 0"):
        build(kind, name, width=0)


@pytest.mark.parametrize(("kind", "name"), [k for k in KINDS if k[0] != "image_generators"])
def test_pictures_of_another_size_are_refused(kind, name):
    module = build(kind, name)
    with pytest.raises(MtzooError, match=r"built for images \(N, 3, 32, 32\), given \(2, 3, 64,"):
        module(*inputs(kind, resolution=64))


def test_patch_refuses_layers_that_leave_no_patch():
    with pytest.raises(MtzooError, match=r"4 layers leave no patches .* use 3 at most"):
        build("image_discriminators", "patch", layers=4)


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_patches_are_as_wide_as_documented(layers, field):
    model = build(
        "image_discriminators", "patch", 128, 1, layers=layers, spectral_norm=False
    ).double()
    frame = torch.zeros(1, 1, 128, 128, dtype=torch.double, requires_grad=True)
    logits = model(torch.zeros_like(frame), frame)
    logits[0, logits.shape[1] // 2, logits.shape[2] // 2].backward()
    seen = frame.grad[0, 0].abs().sum(0).nonzero()
    assert int(seen.max() - seen.min()) + 1 == field


def test_stage_widths():
    assert stage_widths(32, 16) == [16, 32, 64]
    assert stage_widths(64, 16) == [16, 32, 64, 128]
    assert stage_widths(128, 16) == [16, 32, 64, 128, 128]


# Options


@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
@pytest.mark.parametrize(("kind", "name"), WITH_NORM)
def test_every_norm_with_and_without_spectral_norm(kind, name, norm, spectral_norm):
    module = build(kind, name, norm=norm, spectral_norm=spectral_norm)
    result = module(*inputs(kind))
    result.square().sum().backward()
    for parameter, value in module.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.isfinite().all(), parameter
    parametrised = any("parametrizations" in key for key in module.state_dict())
    assert parametrised == spectral_norm
    kinds = {type(part) for part in module.modules()}
    assert (nn.BatchNorm2d in kinds) == (norm == "batch")
    assert (nn.InstanceNorm2d in kinds) == (norm == "instance")
    assert (nn.GroupNorm in kinds) == (norm == "group")


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
@pytest.mark.parametrize(("kind", "name"), WITH_NORM)
def test_one_sample_can_be_trained_on(kind, name, norm):
    module = build(kind, name, norm=norm)
    arguments = inputs(kind, batch=1)
    if kind == "image_generators":
        arguments = arguments[0], arguments[1][:, :1]
    assert module.train()(*arguments).isfinite().all()


def test_biases_stand_only_where_no_norm_follows():
    # A bias that a norm takes out again would be a parameter without a gradient.
    normed = build("image_generators", "dcgan", norm="batch")
    assert [key for key in dict(normed.named_parameters()) if key.endswith("bias")] == [
        "start.1.bias",
        *(f"blocks.{i}.bias" for i in (1, 4)),
        "head.bias",
    ]
    plain = build("image_generators", "dcgan", norm="none")
    assert "start.0.bias" in dict(plain.named_parameters())
    assert plain.blocks[0].bias is not None


def test_unknown_norm_names_the_nearest():
    with pytest.raises(MtzooError, match=r"unknown norm 'bacth'. Did you mean 'batch'\?"):
        norm2d("bacth", 4)
    with pytest.raises(MtzooError, match="unknown norm 'layer'"):
        norm3d("layer", 4)


@pytest.mark.parametrize("name", ENCODERS)
def test_outputs_of_content_codes(name):
    (image,) = inputs("content_encoders", batch=4)
    linear = build("content_encoders", name)
    tanh = build("content_encoders", name, output="tanh")
    normed = build("content_encoders", name, output="layer_norm")
    code = linear(image)
    torch.testing.assert_close(tanh(image), code.tanh())
    assert linear.state_dict().keys() == normed.state_dict().keys()
    unit = normed(image)
    torch.testing.assert_close(unit.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    if name != "timm":  # an untrained backbone may give codes near the epsilon
        torch.testing.assert_close(unit.var(1, unbiased=False), torch.ones(4), atol=2e-2, rtol=0)


def test_resnet_encoder_takes_more_blocks():
    shallow = build("content_encoders", "resnet")
    deep = build("content_encoders", "resnet", blocks=3)
    assert len(deep.blocks) == 3 * len(shallow.blocks)
    assert deep(*inputs("content_encoders")).shape == (2, 8)


# Generators


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", GENERATORS)
def test_videos_are_dense_with_colours_last(name, layout, channels):
    module = build("image_generators", name, channels=channels).to(memory_format=layout)
    video = module(*inputs("image_generators"))
    assert video.permute(0, 1, 3, 4, 2).is_contiguous()
    frames = video.flatten(0, 1)
    assert frames.data_ptr() == video.data_ptr()
    assert frames.is_contiguous(memory_format=torch.channels_last)
    clip = video.transpose(1, 2)
    assert clip.is_contiguous(memory_format=torch.channels_last_3d)
    assert video.abs().max() <= 1


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_run_in_channels_last_throughout(name):
    # The last step would hide a network that repacks its maps on the way.
    module = build("image_generators", name).to(memory_format=torch.channels_last)
    seen = []

    def look(part, _, output):
        seen.append((part, output.is_contiguous(memory_format=torch.channels_last)))

    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | ModulatedConv2d | CodeToMap):
            part.register_forward_hook(look)
    module(*inputs("image_generators"))
    assert len(seen) >= 4
    assert all(dense for _, dense in seen)


@pytest.mark.parametrize("name", GENERATORS)
def test_content_once_a_video_equals_content_every_frame(name):
    module = build("image_generators", name).eval()
    content, motion = inputs("image_generators")
    every = content[:, None].expand(-1, 3, -1)
    assert torch.equal(module(content, motion), module(every, motion))


@pytest.mark.parametrize("name", GENERATORS)
def test_frames_follow_their_own_codes(name):
    module = build("image_generators", name).eval()
    content, motion = inputs("image_generators")
    video = module(content, motion)
    moved = motion.clone()
    moved[0, 1] += 1
    after = module(content, moved)
    changed = (video - after).abs().amax((2, 3, 4)) > 1e-6
    assert changed.tolist() == [[False, True, False], [False, False, False]]
    other = content.clone()
    other[1] += 1
    changed = (video - module(other, motion)).abs().amax((2, 3, 4)) > 1e-6
    assert changed.tolist() == [[False] * 3, [True] * 3]


def test_joined_codes():
    content = torch.tensor([[1.0], [2.0]])
    motion = torch.tensor([[[10.0], [11.0]], [[20.0], [21.0]]])
    wanted = torch.tensor([[1.0, 10.0], [1.0, 11.0], [2.0, 20.0], [2.0, 21.0]])
    assert torch.equal(join_codes(content, motion), wanted)
    every = torch.tensor([[[1.0], [3.0]], [[2.0], [4.0]]])
    wanted[:, 0] = torch.tensor([1.0, 3.0, 2.0, 4.0])
    assert torch.equal(join_codes(every, motion), wanted)


def test_code_to_map_is_a_transposed_convolution():
    layer = CodeToMap(5, 7).double()
    nn.init.normal_(layer.bias)
    code = torch.randn(3, 5, dtype=torch.double)
    weight = layer.linear.weight.view(4, 4, 7, 5).permute(3, 2, 0, 1)
    wanted = F.conv_transpose2d(code[:, :, None, None], weight, layer.bias)
    torch.testing.assert_close(layer(code), wanted)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_modulation_by_activations_equals_weights_for_each_sample(kernel, demodulate):
    torch.manual_seed(0)
    layer = ModulatedConv2d(4, 6, kernel, 5, demodulate=demodulate).double()
    nn.init.normal_(layer.bias)
    x = torch.randn(3, 4, 5, 5, dtype=torch.double, requires_grad=True)
    style = torch.randn(3, 5, dtype=torch.double, requires_grad=True)

    # Karras et al. 2020, Eq. 1 and 3: every sample has weights of its own, in one grouped call.
    scale = style @ layer.style.weight.T + layer.style.bias
    weight = layer.weight[None] * scale[:, None, :, None, None]
    if demodulate:
        weight = weight / (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    grouped = F.conv2d(
        x.reshape(1, 12, 5, 5), weight.reshape(18, 4, kernel, kernel), None, 1, kernel // 2, 1, 3
    )
    wanted = grouped.reshape(3, 6, 5, 5) + layer.bias[:, None, None]

    result = layer(x, style)
    torch.testing.assert_close(result, wanted)
    for mine, theirs in zip(
        torch.autograd.grad(result.square().sum(), (x, style, layer.weight)),
        torch.autograd.grad(wanted.square().sum(), (x, style, layer.weight)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_demodulated_maps_keep_unit_variance():
    torch.manual_seed(0)
    layer = ModulatedConv2d(32, 64, 3, 8)
    with torch.no_grad():
        y = layer(torch.randn(4, 32, 32, 32), 10 * torch.randn(4, 8))[:, :, 1:-1, 1:-1]
    assert 0.9 < y.std((0, 2, 3)).mean() < 1.1


# Discriminators


@pytest.mark.parametrize("options", [{}, {"output": "projection"}])
def test_two_towers_judge_from_what_they_computed(options):
    model = build("image_discriminators", "two_tower", **options).eval()
    condition, frame = inputs("image_discriminators")
    embedding, features = model.embed(condition), model.features(frame)
    assert embedding.shape == (2, 8)
    assert features.shape[2:] == (4, 4)
    assert torch.equal(model.judge(embedding, features), model(condition, frame))
    mismatched = model.judge(embedding.flip(0), features)
    torch.testing.assert_close(mismatched, model(condition.flip(0), frame))
    assert not torch.allclose(mismatched, model(condition, frame), rtol=1e-5, atol=0)


def test_two_tower_refuses_an_unknown_output():
    with pytest.raises(MtzooError, match=r"output is 'projektion'; .* Did you mean 'projection'"):
        build("image_discriminators", "two_tower", output="projektion")


def test_two_towers_judge_as_many_frames_as_conditions():
    model = build("image_discriminators", "two_tower").eval()
    condition, frame = inputs("image_discriminators")
    with pytest.raises(MtzooError, match="1 conditions and 2 frames make no pairs"):
        model.judge(model.embed(condition[:1]), model.features(frame))


def test_projection_adds_the_inner_product():
    model = build(
        "image_discriminators", "two_tower", output="projection", spectral_norm=False
    ).eval()
    condition, frame = inputs("image_discriminators")
    embedding, features = model.embed(condition), model.features(frame)
    plain = model.judge(torch.zeros_like(embedding), features)
    torch.testing.assert_close(plain, model.head(features).flatten())
    product = torch.einsum("ne,ec,nc->n", embedding, model.projection.weight, features.sum((2, 3)))
    torch.testing.assert_close(model.judge(embedding, features), plain + product)


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_condition_and_frame_both_count(name):
    model = build("image_discriminators", name).eval()
    condition, frame = inputs("image_discriminators")
    logits = model(condition, frame)
    for other in (model(condition.flip(0), frame), model(condition, frame.flip(0))):
        assert not torch.allclose(other, logits, rtol=1e-5, atol=0)


def test_discriminators_are_spectrally_normalised_by_default():
    for name in DISCRIMINATORS:
        model = build("image_discriminators", name)
        for _ in range(20):
            model(*inputs("image_discriminators"))
        model.eval()
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(layers) >= 4
        for layer in layers:
            largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
            assert 0.95 < float(largest) < 1.05


# Spectral norm and initialisation


LAYERS = [
    (lambda: nn.Linear(6, 5), (2, 6)),
    (lambda: nn.Conv2d(3, 8, 4, 2, 1), (2, 3, 8, 8)),
    (lambda: nn.ConvTranspose2d(3, 8, 4, 2, 1), (2, 3, 4, 4)),
    (lambda: nn.Conv3d(3, 8, 4, 2, 1), (2, 3, 8, 8, 8)),
]


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_spectral_norm_survives_copies_and_safetensors(make, shape):
    torch.manual_seed(0)
    layer = dcgan_init_(spectral(make(), True))
    x = torch.randn(shape)
    layer.train()
    layer(x)  # moves the power iteration's vectors, which have to travel along
    layer.eval()
    wanted = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), wanted)
    torch.manual_seed(1)
    fresh = spectral(make(), True).eval()
    assert not torch.equal(fresh(x), wanted)
    fresh.load_state_dict(load(save(layer.state_dict())))
    assert torch.equal(fresh(x), wanted)


def test_spectral_norm_off_changes_nothing():
    layer = nn.Conv2d(3, 4, 3)
    assert spectral(layer, False) is layer
    assert list(layer.state_dict()) == ["weight", "bias"]


def test_two_passes_before_one_backward_with_spectral_norm():
    # Real and generated pairs are judged apart; the iteration in between must not break that.
    model = build("image_discriminators", "pair").train()
    condition, frame = inputs("image_discriminators")
    (model(condition, frame).sum() - model(frame, condition).sum()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_bfloat16_autocast_with_spectral_norm():
    model = build("image_discriminators", "pair").train()
    pair = inputs("image_discriminators")
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(*pair)
    logits.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert all(v.dtype == torch.float32 for v in model.state_dict().values())


@pytest.mark.parametrize("name", GENERATORS)
def test_bfloat16_autocast_of_generators(name):
    module = build("image_generators", name)
    arguments = inputs("image_generators")
    exact = module(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        video = module(*arguments)
    assert video.dtype == torch.bfloat16  # nothing on the way promotes the maps
    torch.testing.assert_close(video.float(), exact, atol=0.1, rtol=0)


@pytest.mark.parametrize("enabled", [False, True])
def test_dcgan_initialisation(enabled):
    torch.manual_seed(0)
    net = nn.Sequential(
        spectral(nn.Conv2d(16, 64, 4), enabled), nn.BatchNorm2d(4096), nn.Linear(4, 4)
    )
    before = net[0].weight.clone()
    dcgan_init_(net)
    conv = net[0].parametrizations.weight.original if enabled else net[0].weight
    assert conv.std().item() == pytest.approx(0.02, rel=0.05)
    assert conv.mean().item() == pytest.approx(0, abs=1e-3)
    assert not torch.equal(net[0].weight, before)
    assert net[1].weight.mean().item() == pytest.approx(1, abs=0.002)
    assert net[1].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not net[0].bias.any()
    assert not net[1].bias.any()
    assert net[0].training
    if enabled:
        net.eval()
        norm = torch.linalg.matrix_norm(net[0].weight.detach().flatten(1), 2)
        assert norm.item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("channels", [1, 3, 8, 12, 64, 96, 512])
def test_group_norm_divides_any_channel_count(channels):
    layer = norm2d("group", channels)
    assert layer(torch.randn(2, channels, 4, 4)).shape == (2, channels, 4, 4)
    assert layer.num_groups == {64: 8, 96: 8, 512: 32}.get(channels, 1)


# timm


@pytest.mark.parametrize(
    "model",
    ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "vit_tiny_patch16_224.augreg_in21k"],
)
def test_timm_backbones_of_both_sorts(model):
    encoder = build("content_encoders", "timm", 64, model=model).eval()
    with torch.no_grad():
        codes = encoder(*inputs("content_encoders", 64))
    assert codes.shape == (2, 8)
    assert codes.isfinite().all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_timm_gets_images_as_its_configuration_says(channels):
    encoder = build("content_encoders", "timm", channels=channels, model="test_resnet")
    seen = []
    encoder.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    encoder(torch.ones(2, channels, 32, 32))
    encoder(-torch.ones(2, channels, 32, 32))
    mean, std = (torch.tensor(encoder.backbone.pretrained_cfg[k]) for k in ("mean", "std"))
    if channels != 3:
        mean, std = mean.mean(), std.mean()
    for image, value in zip(seen, (1.0, 0.0), strict=True):
        wanted = ((value - mean) / std).expand(channels)
        torch.testing.assert_close(image[0, :, 5, 7], wanted)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("hf-hub:someone/net", "names a place"),
        ("hf_hub:someone/net", "names a place"),
        ("hf-hub:timm/resnet18", "names a place"),
        ("local-dir:/tmp/net", "names a place"),
        ("timm/resnet18", "names a place"),
        ("/etc/passwd", "names a place"),
        ("../net", "names a place"),
        ("C:\\net", "names a place"),
        ("", "has no model ''"),
        ("resnet81", "Did you mean 'resnet18'"),
        ("RESNET18", "Did you mean 'resnet18'"),
        ("resnet18.nope", "has no model 'resnet18.nope'"),
        ("resnet18.a1_in1k.x", "has no model"),
        ("resnet18\n", "has no model"),
    ],
)
@pytest.mark.parametrize("pretrained", [False, True])
def test_hostile_timm_names_never_reach_timm(model, message, pretrained, monkeypatch):
    def reached(*_, **__):
        raise AssertionError("timm was asked to build it")

    monkeypatch.setattr(timm, "create_model", reached)
    with pytest.raises(MtzooError) as caught:
        build("content_encoders", "timm", model=model, pretrained=pretrained)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_timm_downloads_only_when_asked(monkeypatch):
    asked = []
    true_create = timm.create_model

    def create_model(name, pretrained=False, **options):
        asked.append(pretrained)
        if pretrained:
            raise OSError("no network\nat all")
        return true_create(name, **options)

    monkeypatch.setattr(timm, "create_model", create_model)
    build("content_encoders", "timm", model="resnet18")
    assert not any(asked)
    with pytest.raises(MtzooError) as caught:
        build("content_encoders", "timm", model="resnet18", pretrained=True)
    assert asked[-1]
    message = str(caught.value)
    for part in ("resnet18.a1_in1k", "OSError: no network at all", "~/.cache/huggingface"):
        assert part in message
    assert "\n" not in message


def test_timm_without_pretrained_weights_says_so():
    assert not timm.is_model_pretrained("mixer_s16_224")
    with pytest.raises(MtzooError, match="no pretrained weights for 'mixer_s16_224'"):
        build("content_encoders", "timm", model="mixer_s16_224", pretrained=True)


def test_timm_model_too_large_for_the_resolution():
    with pytest.raises(MtzooError, match="'inception_v3' does not take images of 32x32"):
        build("content_encoders", "timm", model="inception_v3")


def test_timm_that_gives_no_vector(monkeypatch):
    net = nn.Conv2d(3, 4, 3)
    net.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    monkeypatch.setattr(timm_encoder, "_build", lambda *_: net)
    with pytest.raises(MtzooError, match="does not give one feature vector"):
        build("content_encoders", "timm", model="resnet18")


def test_timm_single_image_where_batch_norm_cannot_take_it():
    encoder = build("content_encoders", "timm", model="test_resnet")
    (image,) = inputs("content_encoders", batch=1)
    with pytest.raises(MtzooError, match="normalises over the batch on a 1x1 map"):
        encoder.train()(image)
    assert encoder.eval()(image).shape == (1, 8)


def test_building_does_not_touch_batch_statistics():
    # The probe for the feature size must not leave a trace.
    encoder = build("content_encoders", "timm", model="test_resnet")
    assert encoder.backbone.training
    statistics = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert statistics
    for part in statistics:
        assert int(part.num_batches_tracked) == 0
        assert not part.running_mean.any()


# Moving maps by a flow


def test_warp_looks_where_the_flow_says() -> None:
    maps = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    still = torch.zeros(4, 2, 8, 8)  # two frames of two videos
    torch.testing.assert_close(warp(maps, still), maps.repeat_interleave(2, 0))
    right = still.clone()
    right[1, 0] = 2 * 3 / 8  # second frame of the first video: three pixels to the right
    right[3, 1] = 2 * 1 / 8  # second frame of the second video: one pixel down
    moved = warp(maps, right)
    torch.testing.assert_close(moved[1, :, :, :5], maps[0, :, :, 3:])
    torch.testing.assert_close(moved[1, :, :, 5:], maps[0, :, :, 7:].expand(-1, -1, 3))
    torch.testing.assert_close(moved[3, :, :7], maps[1, :, 1:])
    torch.testing.assert_close(moved[2], maps[1])


def test_an_affine_map_moves_as_the_flow_that_it_is() -> None:
    maps, moves = torch.randn(2, 3, 8, 8), torch.randn(2, 4, 2, 3) * 0.3 + torch.eye(3)[:2]
    axis = (2 * torch.arange(8.0) + 1) / 8 - 1
    at = torch.stack((axis.expand(8, 8), axis[:, None].expand(8, 8), torch.ones(8, 8)), -1)
    flow = torch.einsum("btij,hwj->btihw", moves, at) - at[..., :2].permute(2, 0, 1)
    torch.testing.assert_close(warp_affine(maps, moves), warp(maps, flow.flatten(0, 1)))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(warp_affine(maps, moves), warp(maps, flow.flatten(0, 1)))
    small = warp_affine(maps, torch.eye(3)[:2].expand(2, 1, 2, 3), side=4)
    torch.testing.assert_close(small, nn.functional.avg_pool2d(maps, 2))
    away = torch.eye(3)[:2].expand(2, 1, 2, 3).clone()
    away[..., 2] = 3.0
    assert not warp_affine(maps, away, outside="zeros").any()


def opaque(generator: LayeredImageGenerator, opacity: float) -> None:
    """Layers of the picture's own colours and of one opacity, a logit, on a black background."""
    with torch.no_grad():
        assert generator.head.bias is not None
        generator.head.weight.zero_()
        generator.head.bias[: generator.layers] = opacity
        rest = generator.head.bias[generator.layers :].view(generator.layers + 1, -1)
        rest[:, :-1] = -30.0
        rest[:, -1] = 30.0
        rest[0, -1] = -30.0


def test_a_layered_generator_moves_layers_of_the_picture_and_nothing_else() -> None:
    generator = LayeredImageGenerator(32, 3, 4, 4, width=4, layers=2).eval()
    opaque(generator, 30.0)
    picture, content, motion = torch.rand(2, 3, 32, 32), torch.randn(2, 4), torch.randn(2, 5, 4)
    for poses in (generator.here, generator.there):
        nn.init.zeros_(poses.output.weight)
    with torch.no_grad():
        video = generator(content, motion, picture)
        torch.testing.assert_close(video, picture[:, None].expand(-1, 5, -1, -1, -1))
        # The upper layer looks four pixels to the right.
        generator.there.output.bias.view(2, 2, 3)[1, 0, 2] = 2 * 4 / 32
        video = generator(content, motion, picture)
    torch.testing.assert_close(video[:, 3, :, :, :28], picture[..., 4:])
    # Where that looks past the picture's edge, the lower one shows.
    torch.testing.assert_close(
        video[..., 28:], picture[:, None, :, :, 28:].expand(-1, 5, -1, -1, -1)
    )
    opaque(generator, -30.0)
    with torch.no_grad():
        assert (generator(content, motion, picture) == -1).all()


def test_nothing_of_a_layer_is_left_behind_where_the_background_is_spread_from_around_it() -> None:
    options = {"width": 4, "inpainting": "pull_push"}
    generator = LayeredImageGenerator(32, 3, 4, 4, **options).eval()  # type: ignore[arg-type]
    torch.manual_seed(0)
    content, motion = torch.randn(2, 4), torch.randn(2, 5, 4)
    picture = (torch.arange(32.0) / 32).expand(2, 3, 32, 32).clone()
    shape = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    shape[..., 12:20, 10:22] = True
    hidden = torch.where(shape, torch.rand(2, 3, 32, 32), picture)
    # What it paints is the picture, with the shape; where it takes the layer to lie is given.
    inputs = []
    for shown in (picture, hidden):
        head = torch.zeros(2, 1 + 2 * 4, 32, 32)
        head[:, :1] = torch.where(shape, 30.0, -30.0)
        head[:, [4, 8]] = 30.0  # the picture's own colours
        generator.head.register_forward_hook(lambda *_, head=head: head)
        with torch.no_grad():
            inputs.append(generator.take_apart(content, shown))
            generator.there.output.bias.view(2, 3)[0, 2] = 9.0  # away
            video = generator(content, motion, shown)
        torch.testing.assert_close(video, inputs[-1][0][:, None].expand(-1, 5, -1, -1, -1))
        assert (video - picture[:, None]).abs().max() < 0.08
        torch.testing.assert_close(
            video[..., 22:], picture[:, None, ..., 22:].expand_as(video[..., 22:])
        )
    torch.testing.assert_close(inputs[0][0], inputs[1][0])
    assert generator.state_dict().keys() == LayeredImageGenerator(32, 3, 4, 4).state_dict().keys()
    with pytest.raises(MtzooError, match="inpainting is 'filled'; it must be one of painted, pull"):
        LayeredImageGenerator(32, 3, 4, 4, inpainting="filled")  # type: ignore[arg-type]


def turner(**options: int) -> LayeredImageGenerator:
    torch.manual_seed(3)
    return LayeredImageGenerator(32, 3, 4, 4, width=4, turns=8, **options).eval()


def marked_disc() -> tuple[Tensor, Tensor]:
    """A picture ``(1, 3, 32, 32)`` of a disc with a mark, aside of the middle, and its opacity."""
    axis = (2 * torch.arange(32.0) + 1) / 32 - 1
    x, y = axis - 0.2, axis[:, None] + 0.1
    disc = ((0.4 - (x**2 + y**2).sqrt()) * 16).clamp(0, 1)
    mark = ((0.15 - ((x - 0.1) ** 2 + (y + 0.2) ** 2).sqrt()) * 16).clamp(0, 1)
    return torch.stack((disc - mark, mark, 0.3 * disc))[None] * 2 - 1, disc[None, None]


def angle(maps: Tensor) -> Tensor:
    return torch.atan2(maps[..., 1, 0], maps[..., 0, 0]).rad2deg()


def test_directions_turn_with_the_picture_before_anything_is_learned() -> None:
    generator = turner()
    assert generator.direction is not None
    picture, opacity = marked_disc()
    with torch.no_grad():
        before = generator.direction(picture, opacity)
        torch.testing.assert_close(before[..., 2], torch.eye(3)[2].expand(1, 1, 3))
        quarter = generator.direction(picture.rot90(1, (2, 3)), opacity.rot90(1, (2, 3)))
        assert (angle(before) - angle(quarter)) % 360 == pytest.approx(90, abs=0.1)
        cosine, sine = math.cos(math.radians(30)), math.sin(math.radians(30))
        turn = torch.tensor([[[[cosine, sine, 0.0], [-sine, cosine, 0.0]]]])
        turned = generator.direction(warp_affine(picture, turn), warp_affine(opacity, turn))
        assert (angle(turned) - angle(before)) % 360 == pytest.approx(30, abs=15)


def test_with_turns_a_layer_is_shifted_scaled_and_turned_by_the_picture_only_once_it_may() -> None:
    generator = turner(layers=2)
    picture, content, motion = torch.rand(2, 3, 32, 32), torch.randn(2, 4), torch.randn(2, 5, 4)
    with torch.no_grad():
        _, layers = generator.take_apart(content, picture)
        poses = generator.poses(content, layers, picture)
        plain = generator.poses(content, layers)
        assert poses.shape == plain.shape == (2, 2, 3, 3)
        torch.testing.assert_close(poses[..., 2], plain[..., 2])  # the same places
        torch.testing.assert_close(poses[..., :2, 0].norm(dim=-1), plain[..., 0, 0])  # and sizes
        assert angle(plain).abs().max() < 1e-5
        assert angle(poses).abs().max() > 1
        generator.turn_(False)
        torch.testing.assert_close(generator.poses(content, layers, picture), plain)
        frames = generator.frame_poses(motion)
        moves = plain[:, None] @ torch.linalg.inv(frames)
        background, _ = generator.take_apart(content, picture)
        expected = generator.compose(background, layers, moves)
        torch.testing.assert_close(generator(content, motion, picture), expected, atol=1e-5, rtol=0)
    assert "turning" in generator.state_dict()


@pytest.mark.parametrize(
    ("dtype", "near"), [(torch.float64, 1e-5), (torch.bfloat16, 0.2), (torch.float16, 0.05)]
)
def test_layers_turn_in_other_precisions_too(dtype: torch.dtype, near: float) -> None:
    generator = turner(layers=2)
    codes = torch.randn(2, 4), torch.randn(2, 5, 4), torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = generator(*codes)
        video = generator.to(dtype)(*(code.to(dtype) for code in codes))
        assert generator.directions(codes[2], torch.rand(2, 2, 32, 32)).dtype == torch.float32
    assert video.dtype == dtype
    assert (video.float() - expected).abs().mean() < near


def test_relative_sizes_are_beside_the_mean_over_the_video() -> None:
    generator = turner(layers=2, relative_sizes=True)
    plain = turner(layers=2)
    plain.load_state_dict(generator.state_dict())
    picture, content, motion = torch.rand(2, 3, 32, 32), torch.randn(2, 4), torch.randn(2, 5, 4)
    with torch.no_grad():
        maps, absolute = generator.frame_poses(motion), plain.frame_poses(motion)
        sizes, before = (m[..., :2, 0].norm(dim=-1).log() for m in (maps, absolute))
        assert before.mean(1).abs().max() > 1e-3  # or there was nothing to take away
        torch.testing.assert_close(sizes, before - before.mean(1, keepdim=True), atol=1e-6, rtol=0)
        torch.testing.assert_close(maps[..., 2], absolute[..., 2])
        torch.testing.assert_close(angle(maps), angle(absolute))
        # All layers of a video twice as large are told to be as large as they were.
        plain.there.output.bias.view(2, 5)[:, 2] = math.log(2)
        generator.there.output.bias.view(2, 5)[:, 2] = math.log(2)
        torch.testing.assert_close(generator.frame_poses(motion), maps, atol=1e-5, rtol=0)
        assert not torch.allclose(plain.frame_poses(motion), absolute, atol=1e-2)
        # The frames of a video belong together whether there is a content code each or one.
        video = generator(content, motion, picture)
        each = generator(content[:, None].expand(-1, 5, -1), motion, picture)
    torch.testing.assert_close(each, video, rtol=1e-4, atol=1e-5)
    with pytest.raises(MtzooError, match="relative_sizes needs layers"):
        LayeredImageGenerator(32, 3, 4, 4, width=4, relative_sizes=True)


def test_what_tells_directions_learns_from_disturbed_looks_alone() -> None:
    generator = turner().train()
    picture, content = marked_disc()[0], torch.randn(1, 4)
    _, layers = generator.take_apart(content, picture)
    generator.poses(content, layers, picture).sum().backward()
    assert generator.direction is not None
    assert all(p.grad is None for p in generator.direction.parameters())
    one, two = (generator.directions(picture, layers[:, :, -1]) for _ in range(2))
    assert not torch.equal(one, two)
    one[..., 0, 0].sum().backward()
    assert any(p.grad.abs().sum() > 0 for p in generator.direction.parameters())  # type: ignore[union-attr]
    plain = LayeredImageGenerator(32, 3, 4, 4, width=4)
    with pytest.raises(MtzooError, match="build it with turns"):
        plain.directions(picture, layers[:, :, -1])


def test_poses_in_frames_are_those_that_affine_maps_undo() -> None:
    generator = LayeredImageGenerator(32, 3, 4, 4, width=4, layers=2).eval()
    motion = torch.randn(2, 5, 4)
    with torch.no_grad():
        back = generator.frame_poses(motion) @ generator.there(motion.flatten(0, 1)).view(
            2, 5, 2, 3, 3
        )
    torch.testing.assert_close(back, torch.eye(3).expand(2, 5, 2, 3, 3), atol=1e-5, rtol=0)


def test_what_tells_directions_is_exported_for_any_number_of_pictures() -> None:
    direction = turner().direction
    assert direction is not None
    picture, opacity = (value.expand(3, -1, -1, -1) for value in marked_disc())
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        exported = torch.export.export(
            direction, (picture, opacity), dynamic_shapes=({0: batch}, {0: batch})
        )
        found = exported.module()(picture[:2], opacity[:2])
        torch.testing.assert_close(found, direction(picture[:2], opacity[:2]))


def test_turns_out_of_range_are_refused() -> None:
    with pytest.raises(MtzooError, match="turns is 3; it must be 0, or 4 to 64"):
        LayeredImageGenerator(32, 3, 4, 4, width=4, turns=3)


def test_a_layered_generator_takes_a_content_code_a_frame() -> None:
    generator = LayeredImageGenerator(32, 3, 4, 4, width=4).eval()
    picture, content, motion = torch.rand(2, 3, 32, 32), torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    with torch.no_grad():
        video = generator(content, motion, picture)
        one = generator(content[:, 3], motion[:, 3:4], picture)
        assert generator(content[:, 0], motion).shape == video.shape
    torch.testing.assert_close(video[:, 3:4], one, rtol=1e-4, atol=1e-5)


def test_a_warping_generator_shows_the_picture_where_it_trusts_it() -> None:
    generator = WarpingImageGenerator(32, 3, 4, 4, width=4, style_dim=8).eval()
    with torch.no_grad():
        assert generator.head.bias is not None
        generator.head.weight.zero_()
        generator.head.bias[-1] = 30.0
        picture = torch.rand(2, 3, 32, 32) * 2 - 1
        video = generator(torch.randn(2, 4), torch.randn(2, 5, 4), picture)
    torch.testing.assert_close(video, picture[:, None].expand(-1, 5, -1, -1, -1))


@pytest.mark.parametrize("flow", [True, False])
def test_a_skip_generator_shows_the_picture_where_it_trusts_it(flow: bool) -> None:
    generator = SkipImageGenerator(32, 3, 4, 4, width=4, flow=flow, moved=30.0).eval()
    with torch.no_grad():
        generator.head.weight.zero_()
        generator.head_skip.weight.zero_()
        picture = torch.rand(2, 3, 32, 32) * 2 - 1
        video = generator(torch.randn(2, 4), torch.randn(2, 5, 4), picture)
    torch.testing.assert_close(video, picture[:, None].expand(-1, 5, -1, -1, -1))


def test_a_skip_generator_adds_what_concatenated_skips_would() -> None:
    generator = SkipImageGenerator(32, 3, 4, 4, width=4).eval()
    conv, skip = generator.blocks[0], generator.skips[0]
    assert isinstance(conv, nn.ConvTranspose2d)
    assert isinstance(skip, nn.ConvTranspose2d)
    width = conv.in_channels
    frames, picture = torch.randn(6, width, 4, 4), torch.randn(2, width, 4, 4)
    with torch.no_grad():
        added = generator._with(conv(frames), skip, [picture], 2)
        both = torch.cat((frames, picture.repeat_interleave(3, 0)), 1)
        weight = torch.cat((conv.weight, skip.weight))
        joined = F.conv_transpose2d(both, weight, conv.bias, stride=2, padding=1)
    torch.testing.assert_close(added, joined, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dcgan", "resnet"])
def test_standardised_codes_cannot_all_be_one(name: str) -> None:
    torch.manual_seed(0)
    encoder = create(
        "content_encoders", name, resolution=32, width=4, content_dim=6, output="batch_norm"
    )
    codes = encoder(torch.rand(8, 3, 32, 32) * 2 - 1)
    torch.testing.assert_close(codes.std(0, unbiased=False), torch.ones(6), rtol=0.02, atol=0)
    encoder.eval()
    assert encoder(torch.rand(1, 3, 32, 32)).shape == (1, 6)
