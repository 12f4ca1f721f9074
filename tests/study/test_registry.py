"""Methods register themselves; what lacks a part fails where it is made, by its name."""

from __future__ import annotations

import subprocess
import sys
from typing import ClassVar, Literal

import pytest

from bench.methods.baseline import Baseline
from bench.methods.plans.var import Original
from bench.study import cases
from bench.study.cases import VARCase, make_case, methods, register


@pytest.fixture
def own_registry(monkeypatch):
    methods()
    monkeypatch.setattr(cases, "_registered", dict(cases._registered))


class HalfAPlan(VARCase):
    """A method without a plan."""

    method: Literal["half"] = "half"


class HalfABaseline(Baseline):
    """A baseline without a network."""

    method: Literal["steps"] = "steps"
    label_format: ClassVar = "Steps"


class Nameless(Original):
    """A method whose `method` has no default."""

    method: Literal["nameless"]  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (HalfAPlan, "method half: lacks method_plan, label_format"),
        (HalfABaseline, "method steps: lacks all_steps, decoding, network, network_name"),
        (Original, "method var: lacks a name of its own"),
        (Nameless, "method Nameless: lacks the default of `method`"),
    ],
)
def test_half_a_method_is_refused_by_its_name(kind, says, own_registry):
    with pytest.raises(TypeError, match=says):
        register(kind)


def test_a_method_from_elsewhere_is_one_like_ours(own_registry):
    @register
    class Coarse(Original):
        """VAR under another name."""

        method: Literal["coarse"] = "coarse"  # type: ignore[assignment]
        label_format: ClassVar = "coarse d{depth}"

    case = make_case({"method": "coarse", "depth": 16})
    assert (type(case), case.label, case.steps) == (Coarse, "coarse d16", "10")
    assert [*methods()].index("coarse") < [*methods()].index("aim")  # plans first


def test_no_method_needs_torch_to_be_looked_up_or_checked():
    code = (
        "import sys; from bench.study import experiment; experiment.load('code_table1');"
        "from bench.study.cases import methods; [m for m in methods().values()];"
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
