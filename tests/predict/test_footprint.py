"""Memory measured, memory predicted, and that each byte has an owner."""

from __future__ import annotations

import gc
import signal
import weakref

import pytest
import torch

from bench.measure import memory
from bench.predict import footprint
from bench.predict.footprint import of_plan
from bench.predict.prediction import CUBLAS_BYTES, largest_batch, memory_differs, predict
from bench.predict.simulate import PRIME, watched
from bench.study import experiment
from bench.study.cases import make_case
from bench.study.records import MemoryUse
from bench.tables.tables import usable_bytes
from codevar import PRESETS, VAR, VQVAE, Sampling, plan, stack
from codevar.decoding import generate
from codevar.packed import has_amx

MIB, GIB = 2**20, 2**30
CPU = torch.device("cpu")
PLANS = {
    "var": lambda drafter, refiner: plan.original(drafter),
    "code": lambda drafter, refiner: plan.code(drafter, refiner, 6),
    "late code": lambda drafter, refiner: plan.code(drafter, refiner, 9),
    "variant": lambda drafter, refiner: plan.variant(drafter, depth=2, bridge_scales=6),
    "swap": lambda drafter, refiner: plan.swap_scale(drafter, refiner, scale=5),
}


def cast(model, how):
    """A copy in the stack's precision."""
    with torch.device("meta"):
        other = type(model)(model.config)
    other.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    return other.cast(how.weights) if isinstance(other, VQVAE) else other.to(how.weights)


def measured(method, how, drafter, refiner, vqvae, batch_size):
    """What one decode on this CPU took."""
    drafter, refiner, vqvae = (cast(model, how) for model in (drafter, refiner, vqvae))
    decoded = PLANS[method](drafter, refiner)

    def decode(on_scale):
        return generate(decoded, vqvae, [1] * batch_size, None, 0, how, on_scale=on_scale)

    return memory.measure_memory(decode, [drafter, refiner, vqvae], CPU)[0]


def predicted(method, how, drafter, refiner, images=PRIME):
    with torch.device("meta"):
        models = [VAR(model.config).to(how.weights) for model in (drafter, refiner)]
    return of_plan(PLANS[method](*models), how, Sampling(), "cpu", images)


@pytest.fixture(autouse=True)
def few_objects():
    """Looking for tensors takes long among all that other tests have left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", ["published", "modern"])
@pytest.mark.parametrize(
    ("method", "precision"), [*((method, "float32") for method in PLANS), ("code", "bf16")]
)
def test_a_decode_holds_what_its_footprint_says(method, precision, name, drafter, refiner, vqvae):
    how = stack(name, precision)
    lines = predicted(method, how, drafter, refiner, PRIME if name == "published" else 3)
    used = measured(method, how, drafter, refiner, vqvae, 3)
    above = [b - used.params_mib for b in used.live_by_scale_mib]
    assert above == pytest.approx([b / MIB for b in lines.live_bytes(3)], abs=0.001)
    running = max(lines.peak_bytes(3)) / MIB - used.kv_cache_mib
    # With AMX torch's attention also has buffers of its own for each thread.
    rough = name == "published" or (precision == "bf16" and has_amx())
    assert running == pytest.approx(used.running_mib, rel=0.1 if rough else 0.001)
    assert used.unaccounted_mib == 0
    assert used.accounted


def test_ctrl_c_during_a_prediction_is_not_lost():
    """Python drops an exception that is raised while a weak reference dies."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    done = []

    def decode(on_scale):
        tensor = torch.empty(1)
        weakref.finalize(tensor, signal.raise_signal, signal.SIGINT)
        del tensor
        done.append(1)

    with pytest.raises(KeyboardInterrupt):
        watched([], decode, "cpu", "auto")
    assert done
    assert signal.signal(signal.SIGINT, usual) is signal.default_int_handler


def test_parts_add_up_and_a_cache_is_freed_at_the_hand_over(drafter, refiner, vqvae):
    used = measured("late code", stack("modern"), drafter, refiner, vqvae, 4)
    assert used.params_mib + used.kv_cache_mib + used.running_mib == used.total_mib
    assert used.total_mib == max(used.peak_by_scale_mib)
    freed = used.live_by_scale_mib[7] - used.live_by_scale_mib[8]
    assert freed == pytest.approx(used.kv_cache_by_scale_mib[8], rel=0.2)
    assert used.reserved_mib is used.workspace_mib is used.rounding_mib is None


def test_memory_without_an_owner_is_found(drafter, vqvae):
    held = []

    def decode(on_scale):
        def leak(k):
            if k == 3:
                held.append(torch.UntypedStorage(3 * MIB))
            on_scale(k)

        return generate(plan.original(drafter), vqvae, [1], on_scale=leak)

    used, _ = memory.measure_memory(decode, [drafter, vqvae], CPU)
    assert used.unaccounted_mib == pytest.approx(3)
    assert not used.accounted


class FakeAllocator:
    """What `torch.cuda` says of an allocator that rounds up and gives cuBLAS 8 MiB."""

    def __init__(self, monkeypatch, weights):
        self.held, self.cublas, self.rounding = weights, 8 * MIB, MIB // 2
        self.peak = 0
        for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
            monkeypatch.setattr(torch.cuda, name, lambda *device: None)
        monkeypatch.setattr(torch.cuda, "memory_stats", self.stats)
        monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", self.clear)
        monkeypatch.setattr(memory, "known_bytes", lambda device: self.held)
        monkeypatch.setattr(memory, "process_bytes", lambda device: (0, "nvml"))

    def stats(self, device):
        requested = self.held + self.cublas
        allocated = requested + self.rounding
        return {
            "requested_bytes.all.current": requested,
            "requested_bytes.all.peak": requested + self.peak,
            "allocated_bytes.all.current": allocated,
            "allocated_bytes.all.peak": allocated + self.peak,
            "reserved_bytes.all.peak": allocated + self.peak + 30 * MIB,
            "inactive_split_bytes.all.peak": 4 * MIB,
        }

    def clear(self):
        self.cublas = 0


def test_on_a_gpu_the_allocators_own_figures_are_told_apart(monkeypatch, drafter, vqvae):
    made = generate(plan.original(drafter), vqvae, [1])
    weights = memory.tensor_bytes([drafter])
    allocator = FakeAllocator(monkeypatch, weights)

    def decode(on_scale):
        on_scale(0)
        for k in range(1, 11):
            allocator.held, allocator.peak = weights + k * MIB, 5 * MIB
            on_scale(k)
        return made

    used, _ = memory.measure_memory(decode, [drafter], torch.device("cuda", 0))
    assert used.total_mib == pytest.approx(used.params_mib + 8 + 10 + 5 + 0.5)
    assert used.params_mib + used.kv_cache_mib + used.running_mib == used.total_mib
    assert (used.workspace_mib, used.rounding_mib) == (8, 0.5)
    assert (used.unaccounted_mib, used.accounted) == (0, True)
    assert (used.fragmentation_mib, used.inactive_split_mib) == (30, 4)
    assert used.reserved_mib == pytest.approx(used.total_mib + 30)
    above = [b - used.params_mib for b in used.live_by_scale_mib]
    assert above == pytest.approx([8.5 + k for k in range(1, 11)])


# Against the record of a case, and against the papers


def record_of(case, **changes):
    """The memory that a record of this case has where all is as predicted."""
    told = predict(case)
    parts = {
        "params_mib": told.params_bytes / MIB,
        "kv_cache_mib": max(told.kv_cache_bytes) / MIB,
        "running_mib": told.running_bytes / MIB,
        "total_mib": told.total_bytes / MIB,
    }
    by_scale = {f"{part}_by_scale_mib": [1.0] for part in ("peak", "kv_cache")}
    return MemoryUse.model_validate(parts | by_scale | changes)


@pytest.mark.parametrize(
    ("part", "factor", "says"),
    [
        ("params_mib", 1.001, "params +"),
        ("kv_cache_mib", 0.999, "KV cache -"),
        ("running_mib", 1.08, None),
        ("running_mib", 1.12, "running +12%"),
        ("running_mib", 0.85, "running -15%"),
    ],
)
def test_a_difference_is_said(part, factor, says):
    case = make_case({"method": "var", "depth": 8, "device": "cpu", "precision": "float32"})
    told = record_of(case)
    setattr(told, part, getattr(told, part) * factor)
    found = memory_differs(told, predict(case).figures(), "cpu")
    assert [text.startswith(says) for text in found] == ([True] if says else [])


def test_what_has_no_owner_is_said():
    case = make_case({"method": "var", "depth": 8, "device": "cpu", "precision": "float32"})
    told = record_of(case, accounted=False, unaccounted_mib=4.2)
    assert memory_differs(told, predict(case).figures(), "cpu") == ["4.2 MiB unaccounted"]


def test_what_no_tensor_asked_for_is_no_difference():
    case = make_case({"method": "var", "depth": 8, "device": "cuda"})
    hopper = CUBLAS_BYTES + 24 * MIB
    told = record_of(case, workspace_mib=hopper / MIB, rounding_mib=32)
    told.running_mib += 24 + 32
    assert memory_differs(told, predict(case).figures(), "cuda") == []


def cases_of(table):
    """(case, its row) of the paper's table, measured on a 48 GB card."""
    sweep = experiment.load(table, device="cuda")
    assert sweep.further_paper_rows() == []
    return [(case, sweep.paper_rows[case.key].columns) for case in sweep.cases]


@pytest.mark.parametrize("table", ["code_table3", "variant_table3"])
def test_largest_batch_reproduces_every_out_of_memory_of_the_papers(table):
    usable = usable_bytes(48 * GIB, ecc=True)
    for case, row in cases_of(table):
        fits = largest_batch(case, usable)
        assert (case.batch_size > fits) == (row["status_paper"] == "oom"), (case.label, fits)


def test_largest_batch_is_the_last_that_fits():
    case = make_case({"method": "var", "depth": 8, "device": "cuda"})
    fits = largest_batch(case, 8 * GIB)
    at = [case.model_copy(update={"batch_size": fits + more}) for more in (0, 1)]
    assert [predict(c).total_bytes <= 8 * GIB for c in at] == [True, False]
    assert largest_batch(case, GIB // 4) == 0


def test_running_memory_is_the_papers():
    """All nine rows of CoDe's Table 3 that fit the card: the papers' MB are MiB."""
    rows = [(case, row) for case, row in cases_of("code_table3") if row["status_paper"] == "ok"]
    assert len(rows) == 9
    for case, row in rows:
        running = predict(case).running_bytes / MIB
        assert running == pytest.approx(row["running_mib_paper"], rel=0.005), case.label


def test_math_attention_needs_far_more_than_tiles():
    keys = {"method": "var", "batch_size": 64, "device": "cuda", "precision": "fp16"}
    tiles, math = (predict(make_case(keys | {"attention": a})) for a in ("flash", "math"))
    assert math.running_bytes > 3 * tiles.running_bytes


def test_sampling_presets_hold_the_same(drafter, refiner):
    lines = [
        of_plan(plan.original(VAR(drafter.config).to("meta")), stack("modern"), preset, "cpu")
        for preset in PRESETS.values()
    ]
    assert lines[0].peak_bytes(1) == lines[1].peak_bytes(1)


def test_a_torch_without_cuda_predicts_the_same_of_a_gpu(monkeypatch):
    """Where torch is built for CPUs alone, a GPU's indexing and copies have stand-ins."""
    case = make_case({"method": "var", "depth": 16, "device": "cuda", "precision": "bf16"})
    here = footprint.footprint(case)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    there = footprint._footprint.__wrapped__(case, PRIME)
    assert here.peak_bytes(8) == there.peak_bytes(8)
    assert here.live_bytes(8) == there.live_bytes(8)
