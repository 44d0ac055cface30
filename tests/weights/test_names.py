"""Weights by name, and models that are given away: found where they should be, whole, with a card that says all."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from accel import load_model
from accel.config import parse_model
from accel.files.digests import sha256_of
from accel.models import FrameByFrame, build_model
from accel.weights import hub, names
from accel.weights.cards import Accuracy, Card, Times
from accel.weights.checkpoints import Description, describe_weights, save_weights
from accel.weights.checksums import SUMS, write_sums
from accel.weights.names import find_weights, known_weights

CONFIG = parse_model(
    {"name": "frame_by_frame", "num_classes": 3, "reference": {"encoder": "resnet18", "head_channels": 8}}, "model"
)
CARD = Card(
    summary="Streets.",
    trained_on="CamVid's stills",
    data_licence="research use",
    licence="MIT",
    limits="Night is not known.",
    accuracy=(Accuracy(data="CamVid test", interval=5, measure="mIoU", value=0.615, note="farthest frame"),),
    times=(Times(size=(360, 480), key=20, current=None, machine="2 cores, AVX2"),),
    cite=("Accel", "Deep Feature Flow"),
)
ABOUT = Description(CONFIG, ("sky", "road", "car"), ((0, 0, 0),) * 3, 7, CARD)


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(3)
    return build_model(CONFIG).eval()


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Nothing is shipped, in `model/` or in the cache, and there is no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(names, "SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def fetched(cache, made, repository="someone/streets", description=ABOUT):
    """As the hub's library leaves a repository in its cache."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    made_folder = hub.save_pretrained(made, description, folder / "snapshots" / ("a" * 40))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    return made_folder / "model.safetensors"


def same(model, other):
    return all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_names_are_looked_up_in_order(places, made):
    in_cache = fetched(places / "cache", made)
    assert find_weights("streets") == in_cache
    save_weights(Path("model/streets.safetensors"), made, ABOUT)
    assert find_weights("streets") == Path("model/streets.safetensors")
    digest = save_weights(names.SHIPPED / "streets.safetensors", made, ABOUT)
    write_sums(names.SHIPPED, {"streets.safetensors": digest})
    assert find_weights("streets") == names.SHIPPED / "streets.safetensors"
    hub.save_pretrained(made, ABOUT, "streets")
    assert find_weights("streets") == Path("streets/model.safetensors")  # what the user points at wins
    assert [(each.name, each.where) for each in known_weights()] == [
        ("streets", "shipped"),
        ("streets", "model/"),
        ("streets", "cache"),
    ]
    assert same(load_model("streets", device="cpu"), made)


def test_published_files_are_found_by_their_names(places, monkeypatch):
    Path("model").mkdir()
    asked = []
    monkeypatch.setattr("accel.weights.conversion.find_published", lambda *how: asked.append(how) or Path("x"))
    assert find_weights("accel-18") == Path("x") and asked == [("accel-18", Path("model"))]


def test_what_is_nowhere_is_told_with_what_there_is(places, made):
    with pytest.raises(FileNotFoundError, match=r"no weights called streets: there are none; expected .* hf://OWNER"):
        find_weights("streets")
    save_weights(Path("model/roads.safetensors"), made, ABOUT)
    with pytest.raises(FileNotFoundError, match="there are roads;"):
        load_model("streets")
    with pytest.raises(FileNotFoundError, match="no weights at runs/none"):
        load_model("runs/none")


def test_two_repositories_of_one_name_are_not_guessed_between(places, made):
    fetched(places / "cache", made)
    fetched(places / "cache", made, "another/streets")
    with pytest.raises(ValueError, match="was fetched from 2 repositories; expected hf://OWNER/streets"):
        find_weights("streets")


def test_shipped_weights_that_were_damaged_are_refused(places, made):
    path = names.SHIPPED / "streets.safetensors"
    write_sums(names.SHIPPED, {path.name: save_weights(path, made, ABOUT)})
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged: its SHA-256 is not the one in"):
        load_model("streets")


# --- a hub ----------------------------------------------------------------------------------------------------


def test_an_address_is_taken_from_the_cache_without_a_network(places, made):
    path = fetched(places / "cache", made)
    assert find_weights("hf://someone/streets") == path
    assert same(load_model("hf://someone/streets", device="cpu"), made)


@pytest.mark.parametrize("address", ["hf://streets", "hf://a/b/c", "hf://", "hf:///b"])
def test_an_address_that_is_none(places, address):
    with pytest.raises(ValueError, match="expected hf://OWNER/NAME"):
        find_weights(address)


def test_offline_is_said_in_one_line(places):
    with pytest.raises(FileNotFoundError, match="^hf://a/b: not in the cache, and the hub cannot be reached") as error:
        find_weights("hf://a/b")
    assert "\n" not in str(error.value)


def test_fetched_weights_that_are_not_whole_are_refused(places, made):
    path = fetched(places / "cache", made)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="damaged"):
        find_weights("hf://someone/streets")


def test_what_is_uploaded_is_what_save_pretrained_writes(made, monkeypatch, tmp_path):
    calls = []

    class Api:
        def __init__(self, **_):
            pass

        def create_repo(self, repository, **how):
            calls.append((repository, how))

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    save_weights(tmp_path / "w.safetensors", made, ABOUT)
    model = load_model(tmp_path / "w.safetensors", device="cpu")
    assert model.push_to_hub("someone/streets", private=True) == "hf://someone/streets"
    assert calls == [("someone/streets", {"private": True, "exist_ok": True})]
    assert same(load_model(tmp_path / "hub/someone/streets", device="cpu"), made)
    assert "# streets\n" in (tmp_path / "hub/someone/streets/README.md").read_text()


# --- a folder to give away ------------------------------------------------------------------------------------


def test_a_saved_model_is_loaded_again_and_its_card_says_all(made, tmp_path):
    save_weights(tmp_path / "w.safetensors", made, ABOUT)
    folder = load_model(tmp_path / "w.safetensors", device="cpu").save_pretrained(tmp_path / "streets")
    assert same(load_model(folder, device="cpu"), made)
    assert describe_weights(folder) == ABOUT
    sums = dict(reversed(line.split("  ")) for line in (folder / SUMS).read_text().splitlines())
    assert sums == {path.name: sha256_of(path) for path in folder.iterdir() if path.name != SUMS}
    page = (folder / "README.md").read_text()
    front = yaml.safe_load(page.split("---\n")[1])
    assert front["license"] == "mit" and front["library_name"] == "accel"
    for said in ("sky, road, car", "CamVid's stills", "research use", "Night is not known", "| CamVid test | 5 |"):
        assert said in page
    for said in ("| 61.5 |", "480x360", "20.0", "Jain", "Zhu", "hf://OWNER/streets"):
        assert said in page


def test_a_card_that_says_nothing_says_so(made, tmp_path):
    page = (
        hub.save_pretrained(made, Description(*list(vars(ABOUT).values())[:4]), tmp_path / "a") / "README.md"
    ).read_text()
    assert page.count("not stated") == 3 and page.count("Not measured.") == 2


def test_half_precision_halves_the_file_and_loads_as_float32(made, tmp_path):
    whole, half = (hub.save_pretrained(made, ABOUT, tmp_path / str(h), half=h) for h in (False, True))
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.51 * sizes[0]
    assert describe_weights(half).precision == "float16"
    model = load_model(half, device="cpu")
    for name, tensor in model.state_dict().items():
        expected = made.state_dict()[name]
        assert tensor.dtype == expected.dtype
        if tensor.is_floating_point():
            assert torch.equal(tensor, expected.half().float())


def test_files_of_others_are_not_overwritten(made, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds README.md; expected a new or an empty folder"):
        hub.save_pretrained(made, ABOUT, tmp_path)
    folder = hub.save_pretrained(made, ABOUT, tmp_path / "again")
    hub.save_pretrained(made, ABOUT, folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds notes.txt"):
        hub.save_pretrained(made, ABOUT, folder)


def test_a_model_of_which_nothing_is_known_cannot_be_given_away(made, tmp_path):
    assert isinstance(made, FrameByFrame)
    with pytest.raises(ValueError, match=r"save_pretrained: this model has no .* load it with accel.load_model"):
        made.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()
