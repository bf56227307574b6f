"""The arithmetic of benchmarks/scaling: bytes on the network, memory by ZeRO stage, and the plan that is made of them."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.scaling import received_bytes
from benchmarks.scaling_plan import Known, Sizes, game_of, plan, ring, saved_bytes, state_bytes, step_bytes, train_clips, update_bytes
from stprivacy.config import load_params
from stprivacy.errors import UserError
from stprivacy.models.recognizers import NUM_STATISTICS

ROOT = Path(__file__).resolve().parents[2]
DATA = (1440, 8, 5)
"""Training clips, actions, attributes."""


def sent_by_a_ring(values, num_workers, all_reduce):
    """Play a ring of workers that pass chunks on to their neighbours; how many values each sent, when all have what they should."""
    held = [[{worker} for _ in range(num_workers)] for worker in range(num_workers)]  # [worker][chunk]: whose values are summed in it
    sent = [0.0] * num_workers
    for _ in range(2 if all_reduce else 1):  # a reduce-scatter, then an all-gather, which passes chunks on in the same way
        for turn in range(num_workers - 1):
            passed = [(worker, (worker - turn) % num_workers) for worker in range(num_workers)]
            chunks = [held[worker][chunk] for worker, chunk in passed]
            for (worker, chunk), content in zip(passed, chunks, strict=True):
                neighbour = (worker + 1) % num_workers
                held[neighbour][chunk] = held[neighbour][chunk] | content
                sent[worker] += values / num_workers
    everything = set(range(num_workers))
    assert all(any(chunk == everything for chunk in chunks) for chunks in held)
    return sent


@pytest.fixture(scope="module")
def tiny():
    return load_params(ROOT / "params/vp-synth-tiny.yaml")


@pytest.fixture(scope="module")
def sizes(tiny):
    return Sizes.of(game_of(tiny, *DATA[1:]))


@pytest.mark.parametrize("num_workers", [1, 2, 3, 8])
def test_rings_send_what_workers_passing_chunks_on_send(num_workers):
    assert sent_by_a_ring(840.0, num_workers, all_reduce=False) == pytest.approx([ring(840.0, num_workers)] * num_workers)
    assert sent_by_a_ring(840.0, num_workers, all_reduce=True) == pytest.approx([2 * ring(840.0, num_workers)] * num_workers)


def test_all_stages_send_as_much_unless_gradients_are_reduced_whole_or_in_parts():
    assert [update_bytes(100, stage, 4) for stage in (0, 1, 2)] == [150, 150, 150]
    assert [update_bytes(100, stage, 4, scatter=False) for stage in (0, 1, 2)] == [150, 225, 225]
    assert [update_bytes(100, stage, 4, num_parts=3) for stage in (0, 1, 2)] == [150, 150, 300]
    assert [update_bytes(100, stage, 1, num_parts=3, scatter=False) for stage in (0, 1, 2)] == [0, 0, 0]


def test_a_step_is_one_update_of_the_anonymizer_player_some_of_the_adversaries_and_the_features():
    sizes = Sizes(anonymizer=70, action=30, adversaries=20, frozen=5, gathered_values=6, adversary_steps=3, value_bytes=2)
    assert step_bytes(sizes, 8, 0, 2) == 2 * (70 + 30) + 3 * 2 * 20 + 4 * 6 * 8 / 2


def test_memory_is_what_the_zero_paper_has_for_a_large_model():
    """Its figure 1: 7.5 billion parameters, 64 GPUs, 16-bit weights."""
    gigabytes = [sum(state_bytes(7_500_000_000, stage, 64, 2).values()) / 1e9 for stage in (0, 1, 2)]
    assert gigabytes == pytest.approx([120, 31.4, 16.6], abs=0.05)


def test_fp32_has_no_second_copy_of_the_weights_at_stage_0_alone():
    assert state_bytes(10, 0, 2, 4) == {"weights": 40, "gradients": 40, "AdamW": 80}
    assert state_bytes(10, 1, 2, 4) == {"weights": 40, "gradients": 40, "AdamW": 60}


def test_sizes_are_those_of_the_networks(tiny, sizes):
    networks = game_of(tiny, *DATA[1:]).networks
    trained = [*networks.anonymizer.parameters(), *networks.action.parameters(), *networks.adversaries.parameters()]
    assert sizes.trained == sum(parameter.numel() for parameter in trained)
    assert sizes.gathered_values > DATA[2]  # features of the closed-form adversary, and the attributes


def test_statistics_and_the_mask_are_gathered_with_the_features(tiny, sizes):
    closed_form = tiny.train.game.closed_form.model_copy(update={"statistics": True, "mask_weight": 1.0})
    train = tiny.train.model_copy(update={"game": tiny.train.game.model_copy(update={"closed_form": closed_form})})
    game = game_of(tiny.model_copy(update={"train": train}), *DATA[1:])
    assert Sizes.of(game).gathered_values == sizes.gathered_values + NUM_STATISTICS + 2 * game.networks.anonymizer.num_patches


def test_what_a_pass_holds_is_counted_once_and_without_parameters():
    layer, rows = nn.Linear(6, 4), torch.rand(5, 6)
    assert saved_bytes(lambda: layer(rows).sum()) == rows.nbytes
    assert saved_bytes(lambda: torch.stack([layer(rows).sum(), layer(rows).sum()]).sum()) == rows.nbytes
    assert saved_bytes(lambda: layer(rows).square().sum()) == rows.nbytes + 5 * 4 * 4


def test_sockets_of_this_process_are_counted():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as there:
        here, _ = server.accept()
        with here:
            before = received_bytes()
            there.sendall(bytes(50_000))
            here.recv(50_000, socket.MSG_WAITALL)
            assert received_bytes() - before == 50_000


def test_a_plan_has_formulas_where_nobody_has_measured_and_figures_where_somebody_has(tiny):
    asked = plan(tiny, "tiny.yaml", 2, 1, DATA, Known())
    assert "missing: t_init (--init-seconds), t_game (--game-seconds), t_trial (--trial-seconds), price (--node-price)" in asked
    assert "with what you gave" not in asked
    told = plan(tiny, "tiny.yaml", 2, 1, DATA, Known(init_seconds=3600, game_seconds=7200, trial_seconds=3600, node_price=2))
    assert "missing" not in told
    steps = DATA[0] // tiny.train.global_batch
    hours = steps * tiny.train.init.epochs + 2 * steps * tiny.train.game.epochs
    assert f"with what you gave: {hours:.2f} hours of train, cost {2 * hours:.2f}" in told


def test_trials_of_a_sweep_share_the_gpus(tiny):
    sweep = tiny.sweep.model_copy(update={"num_trials": 5, "seeds": (0,), "num_workers": 1, "epochs": 1})
    params, steps = tiny.model_copy(update={"sweep": sweep}), DATA[0] // tiny.train.global_batch
    for gpus, nodes, rows, at_once in ((1, 1, 5, 1), (2, 1, 3, 2), (2, 2, 2, 4), (8, 1, 1, 5)):
        told = plan(params, "tiny.yaml", gpus, nodes, DATA, Known(trial_seconds=3600))
        assert f"at most 5 trials of 1 GPU(s), {at_once} at once" in told
        assert f"{rows * steps:.2f} hours of sweep" in told


def test_a_batch_that_cannot_be_shared_out_and_an_unknown_data_set_are_refused(tiny):
    with pytest.raises(UserError, match="not a multiple of 7 GPUs"):
        plan(tiny, "tiny.yaml", 7, 1, DATA, Known())
    with pytest.raises(UserError, match="--train-clips"):
        train_clips(tiny)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_page_shows_what_the_commands_print():
    """Each block of docs/scaling.md that begins with a plan's first line, word for word."""
    page = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    plans = re.findall(r"```text\n(params/\S+ on (\d+) nodes? of (\d+) GPUs?.*?)```", page, re.DOTALL)
    assert len(plans) == 2
    for shown, nodes, gpus in plans:
        command = [sys.executable, "-m", "benchmarks.scaling", "--plan", shown.split()[0], "--gpus", gpus, "--nodes", nodes]
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert printed == shown
