"""Names of devices: one sentence for one that cannot be used."""

import pytest

from strong_envs.features.devices import usable_device
from strong_envs.features.errors import DataError


@pytest.mark.parametrize("name", ["mps", "xla", "vulkan", "banana", "", "CPU", "cuda:-1", "cpu:0:0"])
def test_the_reason_is_one_short_sentence(name, monkeypatch):
    if name == "mps":
        pytest.importorskip("torch")
        import torch

        if torch.backends.mps.is_available():
            pytest.skip("this machine has the device")
    with pytest.raises(DataError, match="device .* cannot be used with torch") as refused:
        usable_device(name)
    said = str(refused.value)
    assert "\n" not in said and ". " not in said and len(said) < 320, said
