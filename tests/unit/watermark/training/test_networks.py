"""The networks as they are trained."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from medprov_watermark import carriers as cr  # noqa: E402
from medprov_watermark.coupling_network import (  # noqa: E402
    ACT_BITS,
    BLOCK,
    FIELD_BITS,
    FREQUENCY_BITS,
    GAIN_BITS,
    scale_bits,
)
from medprov_watermark.training import networks  # noqa: E402
from medprov_watermark.training.networks import (  # noqa: E402
    CouplingNetwork,
    Extractor,
    FixedConv,
    quantise,
    rectified,
    signed,
    straight_through,
)


def test_the_twins_agree_on_their_scales() -> None:
    for name, value in {
        "ACT_BITS": ACT_BITS,
        "FIELD_BITS": FIELD_BITS,
        "GAIN_BITS": GAIN_BITS,
        "FREQUENCY_BITS": FREQUENCY_BITS,
        "BLOCK": BLOCK,
    }.items():
        assert getattr(networks, name) == value
    for inputs, kernel, gain in [(64, 3, 1.0), (64, 3, 0.5), (32, 3, 0.4), (64, 1, 1.0), (64, 3, 0.25), (8, 3, 0.5)]:
        assert FixedConv(inputs, 5, kernel, gain).scale_bits == scale_bits(inputs, kernel, gain)


def test_straight_through_takes_the_target_and_the_gradient_of_the_value() -> None:
    value = torch.tensor([0.3, -2.7], requires_grad=True)
    out = straight_through(value, value.detach().round())
    torch.testing.assert_close(out.detach(), torch.tensor([0.0, -3.0]))
    out.sum().backward()
    torch.testing.assert_close(value.grad, torch.ones(2))


def test_quantise_rounds_half_up_and_clips() -> None:
    x = torch.tensor([0.5, -0.5, 1.5, 0.49, 900.0, -900.0]) / 2**ACT_BITS
    expected = torch.tensor([1.0, 0.0, 2.0, 0.0, 127.0, -127.0]) / 2**ACT_BITS
    torch.testing.assert_close(signed(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(rectified(x), expected.clamp(min=0), rtol=0, atol=0)


def test_quantised_values_are_exact_multiples() -> None:
    x = torch.randn(100000) * 3
    for bits in (5, 8, 11):
        scaled = quantise(x, bits, -(2.0**20), 2.0**20) * 2**bits
        assert torch.equal(scaled, scaled.round())


def test_gradients_stop_at_the_limits_and_flow_between() -> None:
    x = torch.tensor([0.2, 50.0], requires_grad=True)
    signed(x).sum().backward()
    assert x.grad.tolist() == [1.0, 0.0]


def test_weights_of_a_layer_are_eight_bit_integers() -> None:
    layer = FixedConv(16, 8)
    with torch.no_grad():
        layer.weight.mul_(100)
    weight, bias = layer.quantised()
    whole = weight.detach() * 2**layer.scale_bits
    assert torch.equal(whole, whole.round())
    assert whole.abs().max() == 127
    assert bias.shape == (8,)


def test_the_pattern_has_unit_power_and_whole_steps() -> None:
    network = CouplingNetwork(8, 1)
    values = torch.where(torch.rand(2, cr.WRITTEN) < 0.5, -1.0, 1.0)
    pattern = network.synthesise(values).detach()
    assert pattern.shape == (2, 1, cr.SIZE, cr.SIZE)
    assert torch.equal(pattern * 2**FIELD_BITS, (pattern * 2**FIELD_BITS).round())
    assert pattern.square().mean().sqrt().item() == pytest.approx(1.0, abs=0.01)
    torch.testing.assert_close(network.synthesise(-values), -pattern, atol=2.0**-FIELD_BITS, rtol=0)


def test_the_field_is_whole_and_every_parameter_learns() -> None:
    torch.manual_seed(0)
    network = CouplingNetwork(8, 1)
    picture = torch.randint(0, 256, (1, 1, cr.SIZE, cr.SIZE)).float()
    values = torch.where(torch.rand(1, cr.WRITTEN) < 0.5, -1.0, 1.0)
    field = network(picture, network.synthesise(values))
    assert field.shape == picture.shape
    assert torch.equal(field * 2**FIELD_BITS, (field * 2**FIELD_BITS).round())
    (field * torch.randn_like(field)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_extractor_answers_every_carrier_and_learns() -> None:
    torch.manual_seed(0)
    extractor = Extractor(8, 1)
    picture = (torch.rand(2, 1, cr.SIZE, cr.SIZE) * 255).requires_grad_()
    answers = extractor(picture)
    assert answers.shape == (2, cr.TOTAL)
    (answers * torch.randn_like(answers)).sum().backward()
    assert torch.isfinite(picture.grad).all()
    assert picture.grad.abs().sum() > 0
    for name, parameter in extractor.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_extractor_ignores_brightness_and_contrast() -> None:
    torch.manual_seed(0)
    extractor = Extractor(8, 1).eval()
    picture = torch.rand(1, 1, cr.SIZE, cr.SIZE) * 100 + 20
    with torch.no_grad():
        answers, other = extractor(picture), extractor(picture * 1.7 + 30)
    torch.testing.assert_close(other, answers, atol=0.05, rtol=0.01)


@pytest.mark.parametrize("value", [0.0, 255.0])
def test_flat_pictures_stay_finite(value: float) -> None:
    picture = torch.full((1, 1, cr.SIZE, cr.SIZE), value, requires_grad=True)
    answers = Extractor(8, 1)(picture)
    assert torch.isfinite(answers).all()


def test_a_fresh_extractor_reads_a_bare_pattern() -> None:
    torch.manual_seed(0)
    values = torch.where(torch.rand(1, cr.WRITTEN) < 0.5, -1.0, 1.0)
    pattern = CouplingNetwork(8, 1).synthesise(values).detach()
    with torch.no_grad():
        answers = Extractor(8, 1).eval()(128 + 5 * pattern)
    assert ((answers[:, : cr.WRITTEN] * values) > 0).float().mean() > 0.97
