"""Number formats by device, and the Fabric that computes in them."""

import pytest
import torch

from harness.learning import precision
from harness.learning.precision import computes_in_bfloat16, fabric_on, precision_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("capable", [True, False])
def test_auto_is_bfloat16_where_the_device_has_instructions_for_it(monkeypatch, capable):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable})
    assert computes_in_bfloat16(CPU) == capable
    assert precision_of("auto", CPU) == ("bf16-mixed" if capable else "32-true")


def test_what_is_asked_for_is_taken_whatever_the_device(monkeypatch):
    for capable in (True, False):
        monkeypatch.setattr(precision, "computes_in_bfloat16", lambda device, capable=capable: capable)
        assert precision_of("float32", CPU) == "32-true"
        assert precision_of("bfloat16", CPU) == "bf16-mixed"


def test_a_fabric_computes_in_its_precision_and_says_nothing(capfd, recwarn):
    product = {}
    for asked in ("float32", "bfloat16"):
        fabric = fabric_on(CPU, asked)
        assert fabric.device == CPU
        with fabric.autocast():
            product[asked] = torch.ones(2, 2) @ torch.ones(2, 2)
    assert {asked: made.dtype for asked, made in product.items()} == {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
    }
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
