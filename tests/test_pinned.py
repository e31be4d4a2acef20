"""What earlier versions drew: fingerprints, keys and values that results are quoted by.

A change here is a change of every published number, and says so in CHANGELOG.md.
"""

from __future__ import annotations

import pytest
import torch

from hetero_plugin import random
from hetero_plugin.config import PRESETS, NoiseConfig
from hetero_plugin.operator import perturb

FINGERPRINTS = {
    "rmsnorm": "01e422e37fd970a0",
    "mlp": "3e157aad8681736f",
    "linear": "0606c6914419d7c0",
    "all": "467a381126ab8687",
    "all-ops": "fa1808bbafb8f565",
    "qerl-fp4": "01e69472a782f99f",
    "mxfp4-w4a4": "c5d72a0d83b37116",
    "hif4-w4a4": "1c52aede4c81c8e3",
    "mxfp8-w8a8": "8a33f654dead2938",
    "fp8-w8a8": "48a062292c7c0eb7",
    "int8-w8a8": "7bcac930b8ca6f5b",
    "int4-w4a16-g128": "b51e379626257434",
}
SPECS: list[tuple[dict[str, object], str]] = [
    ({"scale": 0.05}, "01e69472a782f99f"),
    (
        {
            "rules": [
                {
                    "targets": ["norm"],
                    "scale": 0.001,
                    "error": "truncation",
                    "direction": "both",
                    "layers": ["0-3", 7],
                }
            ],
            "seed": 7,
            "resample": "never",
        },
        "6926ba4187a8df97",
    ),
    (
        {
            "rules": [],
            "aqn": {
                "schedule": "global",
                "sigma_start": 0.05,
                "sigma_end": 0.0005,
                "total_steps": 60,
                "stages": 10,
            },
        },
        "66f1461358035abd",
    ),
]
ROW_KEYS = [5, 4295118939, 8589934599, 17587891077129]
EXPERT_KEYS = [1635312068028924514, 3849134463364351958, -7759457216383581395, 4267819178676695927]
CLOCK = -302221513142606568
SITE_KEYS = [-2943643589819817586, 5068299995094928667]
FLOAT32 = [
    -1.84530795,
    -1.42816031,
    -1.07128191,
    -0.691520512,
    -0.295469671,
    0.0657543093,
    0.442154795,
    0.873007774,
    1.09489882,
    1.63940883,
    1.91227341,
    -1.80612326,
    -1.44835865,
    -1.07243574,
    -0.673513114,
    -0.32036835,
    0.0589679368,
    0.431288064,
    0.849181235,
    1.16669488,
    1.52671087,
    1.89112473,
    -1.7806294,
    -1.35522664,
    -1.07547653,
    -0.727380812,
    -0.313141614,
    0.0625970364,
    0.436893523,
    0.816446543,
    1.18815672,
    1.55792475,
    1.84587467,
    -1.79792905,
    -1.39742112,
    -1.16252875,
    -0.737903893,
    -0.30486542,
    0.0626635775,
    0.402735174,
    0.812273443,
    1.15914893,
    1.59226942,
    1.95767355,
    -1.80540109,
    -1.41603494,
    -1.06809139,
    -0.688208282,
    -0.328463912,
    0.0648859814,
    0.449665815,
    0.844635725,
    1.08323884,
    1.70459473,
    1.89964664,
    -1.95546246,
    -1.27644515,
    -1.04528439,
    -0.68435818,
    -0.312976182,
    0.0628517941,
    0.43929854,
    0.811231852,
    1.17511034,
]
BFLOAT16 = [
    -1.84375,
    -1.4296875,
    -1.0703125,
    -0.69140625,
    -0.294921875,
    0.0654296875,
    0.44140625,
    0.875,
    1.09375,
    1.640625,
    1.9140625,
    -1.8125,
    -1.453125,
    -1.0703125,
    -0.671875,
    -0.3203125,
    0.05908203125,
    0.431640625,
    0.8515625,
    1.1640625,
    1.5234375,
    1.890625,
    -1.78125,
    -1.3515625,
    -1.078125,
    -0.7265625,
    -0.3125,
    0.0625,
    0.4375,
    0.81640625,
    1.1875,
    1.5546875,
    1.84375,
    -1.796875,
    -1.3984375,
    -1.1640625,
    -0.73828125,
    -0.3046875,
    0.0625,
    0.404296875,
    0.8125,
    1.15625,
    1.59375,
    1.953125,
    -1.8046875,
    -1.4140625,
    -1.0625,
    -0.6875,
    -0.328125,
    0.064453125,
    0.44921875,
    0.84765625,
    1.0859375,
    1.703125,
    1.90625,
    -1.9609375,
    -1.2734375,
    -1.0390625,
    -0.6875,
    -0.3125,
    0.0625,
    0.4375,
    0.8125,
    1.1796875,
]


@pytest.mark.parametrize("name", list(PRESETS))
def test_fingerprints_of_presets(name: str) -> None:
    if name in FINGERPRINTS:
        assert NoiseConfig(preset=name).fingerprint == FINGERPRINTS[name]
    assert set(FINGERPRINTS) <= set(PRESETS)


@pytest.mark.parametrize(
    ("spec", "fingerprint"), SPECS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_fingerprints_of_specs(spec: dict[str, object], fingerprint: str) -> None:
    assert NoiseConfig(**spec).fingerprint == fingerprint


def test_keys() -> None:
    keys = _keys()
    assert keys.tolist() == ROW_KEYS
    assert random.expert_keys(keys, torch.arange(4)).tolist() == EXPERT_KEYS
    assert random.clock_key(1234, 17) == CLOCK
    assert _segments()[:, 1].tolist() == SITE_KEYS


def test_64_values_in_float32_and_bfloat16() -> None:
    x = ((torch.arange(64) % 11) - 5).reshape(4, 16) * 0.375 + 0.0625
    rest = _keys(), torch.tensor([CLOCK]), torch.tensor([0.0, 0.05, 0.01]), _segments()
    y = perturb(x, *rest, "relative_gaussian", True)
    # Two units of the last place: what kernels may differ by in a normal, times |x| and the scale.
    torch.testing.assert_close(y.reshape(-1), torch.tensor(FLOAT32), rtol=2.4e-7, atol=0)
    y = perturb(x.bfloat16(), *rest, "relative_gaussian", True)
    assert y.reshape(-1).tolist() == BFLOAT16


def _keys() -> torch.Tensor:
    return random.row_keys(torch.tensor([5, 151643, 7, 9]), torch.tensor([0, 1, 2, 4095]))


def _segments() -> torch.Tensor:
    q = random.site_key("model.layers.3.self_attn.q_proj", "output", 0)
    k = random.site_key("model.layers.3.self_attn.k_proj", "output", 1)
    return torch.tensor([[10, q, 120, 1], [6, k, 0, 2]])
