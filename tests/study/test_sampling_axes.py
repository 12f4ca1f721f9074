"""How tokens are drawn is an axis of VAR cases like any other; presets give the defaults."""

from __future__ import annotations

import pytest

from bench.study import experiment
from bench.study.cases import make_case
from bench.study.errors import UsageError
from bench.study.names import distinguishing_settings
from codevar import PRESETS, Sampling
from codevar.scales import PATCH_SIZES_256, Scales

SCALES = Scales(PATCH_SIZES_256)


def settings(**values):
    return make_case({"method": "var", **values}).sampling_settings()


def test_a_preset_is_the_default_and_any_part_of_it_can_be_changed():
    assert settings() == PRESETS["var"]
    assert settings(sampling="code", top_k=900) == Sampling(
        cfg=1.5, top_k=900, top_p=0.96, temperature=(1.1,) * 7 + (1.0,) * 3
    )


def test_numbers_by_scale_are_written_as_text_since_lists_are_axes():
    assert settings(temperature="1.1x7,1x3") == settings(temperature="1.1x7,1,1,1")
    assert settings(temperature="1.1x7,1x3").temperature == (1.1,) * 7 + (1.0,) * 3


@pytest.mark.parametrize(
    ("values", "last", "first"),
    [
        ({"cfg": 2.0}, 2.0, 0.0),  # the papers' ramp
        ({"cfg": 2.0, "cfg_ramp": False}, 2.0, 2.0),
        ({"cfg": "2x10"}, 2.0, 2.0),
        ({"cfg": "2x10", "cfg_ramp": True}, 2.0, 0.0),
        ({"cfg": 0}, 0.0, 0.0),
    ],
)
def test_whether_guidance_ramps_stands_apart_from_its_value(values, last, first):
    found = settings(**values).numbers(SCALES, 4096)["cfg"]
    assert (found[-1], found[0]) == (last, first)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"temperature": "1.1x7"}, "temperature: '1.1x7' has 7 numbers for 10 scales"),
        ({"cfg": "high"}, "cfg must be a number, or numbers by scale"),
        ({"temperature": 0}, "temperature must be above 0, not 0"),
        ({"top_p": 1.5}, "top_p must be between 0 and 1, not 1.5"),
        ({"top_k": 1.5}, "top_k"),
        ({"cfg": -1}, "cfg must be at least 0, not -1"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_key(values, line):
    with pytest.raises(UsageError) as e:
        settings(**values)
    assert line in str(e.value)
    assert "\n" not in str(e.value)


def test_a_case_without_them_keeps_the_key_that_its_old_records_have():
    case = make_case({"method": "var", "depth": 16, "batch_size": 8})
    assert case.key == make_case({"method": "var", "depth": 16, "batch_size": 8, "cfg": None}).key
    assert case.key != make_case({"method": "var", "depth": 16, "batch_size": 8, "cfg": 1.5}).key


def test_set_changes_them_and_rows_say_so():
    sweep = experiment.load("code_table5", ["cfg=0,2", "method=var", 'temperature="1.1x7,1x3"'])
    assert {case.cfg for case in sweep.cases} == {0, 2}
    apart = [distinguishing_settings(case, sweep.cases) for case in sweep.cases]
    assert {"cfg": "cfg 2"} in apart or {"cfg": "cfg 2.0"} in apart


def test_an_unknown_axis_is_answered_with_the_axes_of_this_experiment():
    with pytest.raises(UsageError) as e:
        experiment.load("code_table5", ["colour=red"])
    assert "no such axis here; there are" in str(e.value)
    assert "draft_steps" in str(e.value)
    assert "denoising_steps" not in str(e.value)  # a baseline's, which is not in it
