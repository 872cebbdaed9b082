"""The networks against the published ones' outputs, a naive recurrence and nnU-Net's own U-Net."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from umamba2.models.network import build_network
from umamba2.nets.prompts import PointEncoder, RandomFourierEncoding
from umamba2.nets.umamba2 import VARIANTS
from umamba2.nets.unet import InstanceNorm

from small_models import ARCHITECTURE, PATCH, randomise  # isort: skip

REFERENCE = torch.load(Path(__file__).parent / "data" / "reference_networks.pt", weights_only=True)
FULL_SIZE = dict(
    ARCHITECTURE,
    n_stages=7,
    features_per_stage=[32, 64, 128, 256, 320, 320, 320],
    kernel_sizes=[[3, 3, 3]] * 7,
    strides=[[1, 1, 1]] + [[2, 2, 2]] * 5 + [[1, 1, 1]],
    n_blocks_per_stage=[1, 3, 4, 6, 6, 6, 6],
    n_conv_per_stage_decoder=[1] * 6,
)


def small(name: str, classes: int = 3, **options):
    torch.manual_seed(0)
    arguments = dict(ARCHITECTURE, patch_size=list(PATCH)) if "Click" in name else ARCHITECTURE
    net = build_network(name, arguments, 1, classes, **options).eval()
    return net.apply(randomise)


def reference(name: str):
    case = REFERENCE[name]
    net = build_network(f"nnunetv2.nets.{name}", case["arch"], 1, case["arch"]["num_classes"]).eval()
    net.load_state_dict(case["state_dict"], strict=True)
    return net, case


@torch.no_grad()
def test_equals_the_published_network():
    net, case = reference("UMambaBot2")
    torch.testing.assert_close(net(case["input"]), case["logits"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_equals_the_published_click_network_with_and_without_clicks():
    net, case = reference("UMambaBot2_CrossAttn_Click2")
    clicks = case["click_coordinates"], case["click_labels"]
    torch.testing.assert_close(net(case["input"], clicks), case["logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(net(case["input"]), case["logits_without_clicks"], atol=1e-4, rtol=0)
    none = torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.long)
    torch.testing.assert_close(net(case["input"], none), case["logits_without_clicks"], atol=1e-4, rtol=0)
    assert not torch.allclose(case["logits"], case["logits_without_clicks"], atol=1e-2)


def test_a_wrong_state_dict_is_refused():
    net, case = reference("UMambaBot2")
    missing = {k: v for k, v in case["state_dict"].items() if k != "mamba_layer.mamba.D"}
    with pytest.raises(RuntimeError, match=r"mamba_layer\.mamba\.D"):
        net.load_state_dict(missing, strict=True)
    with pytest.raises(RuntimeError, match="stranger"):
        net.load_state_dict({**case["state_dict"], "stranger": torch.zeros(1)}, strict=True)


def test_loading_leaves_the_callers_state_dict_alone():
    net, case = reference("UMambaBot2")
    before = set(case["state_dict"])
    net.load_state_dict(case["state_dict"])
    assert set(case["state_dict"]) == before


def test_full_size_networks_have_the_published_size():
    for name in ("UMambaBot2", "UMambaBot2_CrossAttn_Click2"):
        with torch.device("meta"):
            net = build_network(name, dict(FULL_SIZE, patch_size=[160, 288, 288]), 1, 47)
        layer = sum(p.numel() for p in net.mamba_layer.mamba.parameters())
        total = sum(p.numel() for p in net.parameters())
        extra = sum(p.numel() for n, p in net.named_parameters() if "cross_attention" in n or "point_" in n)
        assert 141e6 < total - extra < 143e6
        assert 0.004 < layer / total < 0.005


def test_unet_equals_nnunets_with_the_same_weights():
    """The convolutional part, module for module; U-Mamba2 without its layer is nnU-Net's residual U-Net."""
    architectures = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    operators = {
        "conv_op": torch.nn.Conv3d,
        "norm_op": torch.nn.InstanceNorm3d,
        "nonlin": torch.nn.LeakyReLU,
        "input_channels": 1,
        "num_classes": 4,
        "deep_supervision": True,
    }
    torch.manual_seed(3)
    theirs = architectures.ResidualEncoderUNet(**{**ARCHITECTURE, **operators}).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.InstanceNorm3d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
    ours = small("UMamba2", classes=4, deep_supervision=True)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    ours.mamba_layer.forward = lambda features, clicks=None: features
    x = torch.randn(1, 1, *PATCH)
    with torch.no_grad():
        for a, b in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


# --- precision, variants, clicks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["UMamba2", "UMamba2Click"])
def test_reduced_precision_stays_close_and_finite(name):
    net = small(name)
    x = torch.randn(1, 1, *PATCH)
    clicks = (torch.tensor([[[3.0, 8.0, 4.0]]]), torch.tensor([[1]]))
    arguments = (x, clicks) if "Click" in name else (x,)
    with torch.no_grad():
        full = net(*arguments)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = net(*arguments)
        net.encoder.bfloat16()
        net.decoder.bfloat16()
        low = net(x.bfloat16(), *arguments[1:])
    for other in (mixed, low):
        assert other.isfinite().all()
        assert (other.float() - full).abs().mean() < 0.1 * full.std()


def test_layer_runs_in_fp32_whatever_surrounds_it():
    net = small("UMamba2Click")
    seen = []
    net.mamba_layer.mamba.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        net(torch.randn(1, 1, *PATCH))
    assert seen == [torch.float32]


@pytest.mark.parametrize("name", sorted(VARIANTS))
@torch.no_grad()
def test_every_published_variant_builds_and_runs(name):
    net = small(f"nnunetv2.nets.{name}")
    assert net(torch.randn(1, 1, *PATCH)).shape == (1, 3, *PATCH)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("UMambaBot2PE", "mamba_layer.position_encoder.positional_encoding_gaussian_matrix"),
        ("UMambaBot2_Click", "mamba_layer.point_encoder.point_embeddings.1.weight"),
        ("UMambaBot2_CrossAttn_Click", "mamba_layer.cross_attention.mlp.layers.0.weight"),
        ("UMambaBot2_CrossAttn_Click2", "mamba_layer.cross_attention.1.norm4.bias"),
    ],
)
def test_variants_have_the_published_keys(name, key):
    assert key in small(name).state_dict()
    assert (
        small("UMambaBot2_CrossAttn_Click").state_dict()["mamba_layer.cross_attention.mlp.layers.0.weight"].shape[0]
        == 512
    )


@pytest.mark.parametrize("name", ["UMambaBot2_CrossAttn_Click", "UMambaBot2_CrossAttn_Click2"])
@torch.no_grad()
def test_clicks_change_the_answer_and_sides_differ(name):
    net, x = small(name), torch.randn(1, 1, *PATCH)
    where = torch.tensor([[[2.0, 20.0, 3.0]]])
    answers = [net(x), *(net(x, (where, torch.tensor([[side]]))) for side in (0, 1))]
    for i, a in enumerate(answers):
        for b in answers[i + 1 :]:
            assert not torch.equal(a, b)


@pytest.mark.parametrize("name", sorted(VARIANTS))
@torch.no_grad()
def test_what_the_mamba_layer_makes_of_features_serves_any_clicks(name):
    layer = small(name).mamba_layer
    features, where = torch.randn(2, 40, 3, 8, 4), torch.tensor([[[2.0, 20.0, 3.0]]] * 2)
    scanned = layer.scanned(features)
    assert (scanned is None) == VARIANTS[name].append_points
    for clicks in (None, *((where, torch.tensor([[side]] * 2)) for side in (0, 1))):
        if clicks is None or VARIANTS[name].takes_clicks:
            assert torch.equal(layer(features, clicks, scanned), layer(features, clicks))


def test_padding_clicks_with_minus_one_encodes_no_position():
    encoder = PointEncoder(40, PATCH)
    a = encoder(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[-1]]))
    b = encoder(torch.tensor([[[9.0, 9.0, 9.0]]]), torch.tensor([[-1]]))
    torch.testing.assert_close(a, b)


def test_grid_positions_are_cell_centres_in_raster_order():
    encoding = RandomFourierEncoding(8)
    grid = encoding.grid((2, 3, 4))
    cell = torch.tensor([1 + 0.5, 2 + 0.5, 0 + 0.5]) / torch.tensor([2.0, 3.0, 4.0])
    torch.testing.assert_close(grid[1 * 12 + 2 * 4 + 0], encoding(cell))


def test_deep_supervision_gives_every_resolution():
    outputs = small("UMamba2", deep_supervision=True)(torch.randn(2, 1, *PATCH))
    assert [tuple(o.shape[2:]) for o in outputs] == [PATCH, tuple(n // 2 for n in PATCH)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv_op": "torch.nn.modules.conv.Conv2d"}, "found Conv2d, expected Conv3d"),
        ({"norm_op": "torch.nn.BatchNorm3d"}, "found BatchNorm3d, expected InstanceNorm3d"),
        ({"strides": [[1, 1, 1]]}, "strides: found 1 entries, expected 3"),
        ({"features_per_stage": [8, 16]}, "features_per_stage: found 2 entries, expected 3"),
        ({"nonlin": "torch.nn.GELU"}, "found GELU, expected LeakyReLU"),
    ],
)
def test_architectures_outside_the_family_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build_network("UMambaBot2", {**ARCHITECTURE, **change}, 1, 3)


@pytest.mark.parametrize(("name", "message"), [("nets.UMambaBot", "Mamba-1"), ("nets.UNet", "found nets.UNet")])
def test_unknown_networks_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        build_network(name, ARCHITECTURE, 1, 3)


@pytest.mark.parametrize("batch", [1, 2])
def test_training_on_a_cpu_normalises_like_any_instance_norm(batch):
    torch.manual_seed(0)
    norm = InstanceNorm(5, 1e-5).train()
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    torch.nn.init.uniform_(norm.bias, -1, 1)
    x = (3 * torch.randn(batch, 5, 4, 6, 8) + 2).to(memory_format=torch.channels_last_3d).requires_grad_()
    upstream = torch.randn(batch, 5, 4, 6, 8)

    def answers(found):
        found.backward(upstream)
        parts = [found.detach(), x.grad.clone(), norm.weight.grad.clone(), norm.bias.grad.clone()]
        x.grad = norm.weight.grad = norm.bias.grad = None
        return parts

    expected = answers(F.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=1e-5))
    for found, wanted in zip(answers(norm(x)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
