"""Weights for the package: what their card says was measured with just that file."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors import safe_open

from accel.config import load_config
from accel.datasets import build_dataset
from accel.evaluation.running.evaluator import compare
from accel.inference.loading import load_model
from accel.weights.checkpoints import describe_weights, save_weights
from accel.weights.checksums import SUMS, check_sum, read_sums, write_sums


@pytest.fixture
def shipped(tool, tiny_run, trained_run, tmp_path):
    """The folder with the weights of the small run, beside an older file's checksum."""
    shutil.copytree(trained_run, tmp_path / "run")
    (tmp_path / "shipped").mkdir()
    write_sums(tmp_path / "shipped", {"older.safetensors": "0" * 64})
    _, cfg, *overrides = tiny_run("accel")
    words = {"name": "mine", "cfg": cfg, "summary": "Labels noise.", "licence": "MIT", "limits": "It learned nothing."}
    card = tmp_path / "card.yaml"
    card.write_text(yaml.safe_dump(words | {"scores": [{"data": "Noise", "split": "val", "intervals": [1, 2]}]}))
    places = ["--shipped", tmp_path / "shipped", "--results", tmp_path / "results", "--rounds", 1, "--device", "cpu"]
    assert tool("ship_weights", "--card", card, "--checkpoint", tmp_path / "run", *places, *overrides) == 0
    return tmp_path / "shipped"


def test_a_card_states_what_the_shipped_file_scores(shipped, tiny_run, tmp_path):
    path = shipped / "mine.safetensors"
    _, cfg, *overrides = tiny_run("accel")
    model = load_model(path, device="cpu")
    results = compare({"it": model}, build_dataset(load_config(cfg, overrides).data, "val"), [1, 2])["it"]
    card = describe_weights(path).card
    assert [(each.data, each.interval, each.value) for each in card.accuracy] == [
        ("Noise", result.interval, round(result.mean, 4)) for result in results
    ]
    assert (card.summary, card.limits, card.times[0].size) == ("Labels noise.", "It learned nothing.", (64, 96))
    figures = json.loads((tmp_path / "results" / "mine.json").read_text())
    assert set(figures["scores"]["Noise"]) == set(figures["times"]) == {"Accel", *model.constituents()}
    assert figures["scores"]["Noise"]["Accel"][1]["mean"] == results[1].mean


def test_shipped_weights_are_halves_with_a_checksum_that_keeps_the_others(shipped, tmp_path):
    path = shipped / "mine.safetensors"
    with safe_open(path, "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} <= {torch.float16, torch.int64}  # noqa: SIM118
    check_sum(path, shipped / SUMS)
    assert set(read_sums(shipped / SUMS)) == {"older.safetensors", "mine.safetensors"}
    whole = load_model(tmp_path / "run", device="cpu").state_dict()
    halves = load_model(path, device="cpu").state_dict()
    assert all(torch.equal(halves[name], whole[name].half().to(whole[name].dtype)) for name in whole)


def test_new_words_keep_the_figures_but_not_those_of_other_weights(shipped, tool, tmp_path, capfd):
    path, card = shipped / "mine.safetensors", tmp_path / "card.yaml"
    before = describe_weights(path).card
    card.write_text(card.read_text().replace("It learned nothing.", "It sees nothing but noise."))
    reword = ("ship_weights", "--words", "--card", card, "--shipped", shipped, "--checkpoint")
    assert tool(*reword, tmp_path / "run") == 0
    after = describe_weights(path).card
    assert after == before.model_copy(update={"limits": "It sees nothing but noise."})
    check_sum(path, shipped / SUMS)

    weights = tmp_path / "run" / "weights.safetensors"
    model = load_model(weights, device="cpu")
    model.reference.score_layer.bias.data += 1
    save_weights(weights, model, describe_weights(weights))
    assert tool(*reword, tmp_path / "run") == 2
    assert "has other weights by now (reference.score_layer.bias)" in capfd.readouterr().err
