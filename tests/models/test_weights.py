from __future__ import annotations

import hashlib
import importlib.util
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import FileServer, serve
from filled_weights import save_filled
from tiny_sapiens import program

from mit_builder.errors import CannotContinue, ConfigError, StageUnavailable
from mit_builder.models.weights import store
from mit_builder.models.weights.table import TABLE, WeightsFile

BODY = bytes(range(256)) * 400
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="files are known by their tensors only where torch is installed"
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIT_BUILDER_WEIGHTS", str(tmp_path / "cache" / "weights"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve() as files:
        files.body = BODY
        yield files


def a_file(*urls: str, body: bytes | None = BODY, name: str = "tiny") -> WeightsFile:
    """An entry whose digest is that of `body`, or unknown; its tensors are those of `tiny_checkpoint`."""
    digest = None if body is None else hashlib.sha256(body).hexdigest()
    return WeightsFile(name, f"{name}.model", urls, digest, None, "MIT", "tests", {"a.weight": (2, 3)})


def tiny_checkpoint(path: Path, salt: int = 0) -> Path:
    return save_filled(path, {"a.weight": (2, 3), "a.bias": (2,)}, salt=salt)


def test_table_is_consistent() -> None:
    assert len({file.name for file in TABLE}) == len({file.file_name for file in TABLE}) == len(TABLE)
    for file in TABLE:
        assert file.tensors
        assert file.licence
        assert all(url.startswith("https://") for url in file.urls)
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)


def test_digests_of_the_table_are_those_of_the_real_files(shared_dir: Path) -> None:
    for file in TABLE:
        real = shared_dir / "weights" / file.urls[0].rsplit("/", 1)[-1]
        if real.exists():
            assert store.import_file(real) == file
            assert store.find(file.name).stat().st_size == file.n_bytes


def test_folder_is_the_platforms_cache_unless_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIT_BUILDER_WEIGHTS")
    assert store.folder().parts[-2:] == ("mit-builder", "weights")


def test_nothing_is_found_in_an_empty_cache(folder: Path) -> None:
    assert store.find("lr-asd-talkset") is None
    assert not folder.exists()


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown weights 'sapiens-9b'; there are: lr-asd-talkset, "):
        store.find("sapiens-9b")


def test_damaged_file_is_never_returned(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / store.entry("lr-asd-talkset").file_name).write_bytes(b"half a file")
    with pytest.raises(CannotContinue, match="damaged; get them again: `mit-build weights fetch lr-asd-talkset`"):
        store.find("lr-asd-talkset")


def test_fetch_puts_the_verified_file_in_place_and_asks_no_more(server: FileServer, folder: Path) -> None:
    file = a_file(server.url)
    server.cuts = [5000]
    assert store.fetch(file, pause_s=0).read_bytes() == BODY
    assert sorted(path.name for path in folder.iterdir()) == ["tiny.model"]
    n_requests = len(server.ranges)
    store.fetch(file, pause_s=0)
    assert len(server.ranges) == n_requests


def test_fetch_replaces_a_damaged_file(server: FileServer, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "tiny.model").write_bytes(b"damaged")
    assert store.fetch(a_file(server.url), pause_s=0).read_bytes() == BODY


def test_wrong_bytes_are_thrown_away_and_say_what_to_do(server: FileServer, folder: Path) -> None:
    server.body = BODY[:-1] + b"?"
    with pytest.raises(CannotContinue, match=r"^cannot fetch tiny: another file .* `mit-build weights import [^ ]+`$"):
        store.fetch(a_file(server.url), pause_s=0)
    assert list(folder.iterdir()) == []


def test_next_address_is_tried(server: FileServer) -> None:
    missing = "http://127.0.0.1:9/file.model"
    assert store.fetch(a_file(missing, server.url), pause_s=0).read_bytes() == BODY


def test_all_reasons_are_given_in_one_line(server: FileServer) -> None:
    server.statuses = [404]
    with pytest.raises(CannotContinue, match=r"cannot reach 127.0.0.1:9 .*; 127.0.0.1:\d+ answers 404") as caught:
        store.fetch(a_file("http://127.0.0.1:9/file.model", server.url), pause_s=0)
    assert "\n" not in str(caught.value)


@needs_torch
def test_digest_that_nobody_published_is_required_from_the_first_fetch_on(
    server: FileServer, folder: Path, tmp_path: Path
) -> None:
    server.body = tiny_checkpoint(tmp_path / "one.model").read_bytes()
    path = store.fetch(a_file(server.url, body=None), pause_s=0)
    assert json.loads((folder / store.RECORD_NAME).read_text()) == {"tiny": hashlib.sha256(server.body).hexdigest()}
    path.unlink()
    server.body, server.etag = tiny_checkpoint(tmp_path / "two.model", salt=1).read_bytes(), '"two"'
    with pytest.raises(CannotContinue, match="another file than expected"):
        store.fetch(a_file(server.url, body=None), pause_s=0)


@needs_torch
def test_file_without_published_digest_must_have_the_right_tensors(server: FileServer, tmp_path: Path) -> None:
    for body in (save_filled(tmp_path / "other.model", {"b.weight": (2, 3)}).read_bytes(), b"quota exceeded"):
        server.body = body
        with pytest.raises(CannotContinue, match="another file than expected"):
            store.fetch(a_file(server.url, body=None), pause_s=0)


def test_file_put_there_by_hand_is_recorded_on_first_use(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "tiny.model").write_bytes(BODY)
    assert store.state(a_file(body=None)) == "ok"
    (folder / "tiny.model").write_bytes(BODY + b"!")
    assert store.state(a_file(body=None)) == "damaged"


def test_damaged_record_is_named(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "tiny.model").write_bytes(BODY)
    (folder / store.RECORD_NAME).write_text("{")
    with pytest.raises(CannotContinue, match=r"digests\.json is damaged; delete it"):
        store.state(a_file())


def test_import_knows_a_file_by_its_digest(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "renamed.bin").write_bytes(BODY)
    table = [a_file(name="other", body=b"x"), a_file()]
    assert store.import_file(tmp_path / "renamed.bin", table=table).name == "tiny"
    assert (folder / "tiny.model").read_bytes() == BODY
    assert not (folder / store.RECORD_NAME).exists()


@needs_torch
def test_import_knows_a_file_by_its_tensors(folder: Path, tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path / "renamed.bin")
    assert store.import_file(path, table=[a_file(body=None)]).name == "tiny"
    assert (folder / "tiny.model").read_bytes() == path.read_bytes()
    assert "tiny" in json.loads((folder / store.RECORD_NAME).read_text())


@needs_torch
def test_import_takes_another_digest_only_on_trust(folder: Path, tmp_path: Path) -> None:
    path, table = tiny_checkpoint(tmp_path / "tuned.model"), [a_file()]
    with pytest.raises(CannotContinue, match="has the tensors of tiny but another digest; --trust"):
        store.import_file(path, table=table)
    assert not (folder / "tiny.model").exists()
    store.import_file(path, trust=True, table=table)
    assert store.state(table[0]) == "ok"
    (folder / "tiny.model").write_bytes(BODY)
    assert store.state(table[0]) == "damaged"


@needs_torch
def test_import_asks_which_where_several_fit(folder: Path, tmp_path: Path) -> None:
    path, table = tiny_checkpoint(tmp_path / "tuned.model"), [a_file(body=None), a_file(body=None, name="other")]
    with pytest.raises(CannotContinue, match="fits tiny or other: say which with --name"):
        store.import_file(path, table=table)
    assert store.import_file(path, name="other", table=table).name == "other"


@needs_torch
def test_import_refuses_tensors_of_no_known_kind(tmp_path: Path) -> None:
    path = save_filled(tmp_path / "mystery.model", {"b.weight": (2, 3)})
    with pytest.raises(CannotContinue, match="none of the weights that are used here"):
        store.import_file(path)


def test_import_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CannotContinue, match="no such file"):
        store.import_file(tmp_path / "nowhere.model")


def test_folder_that_cannot_be_written_is_named(folder: Path, tmp_path: Path) -> None:
    folder.parent.write_text("a file where the folder should be")
    (tmp_path / "tiny.model").write_bytes(BODY)
    with pytest.raises(CannotContinue, match=r"cannot write to .*Not a directory; MIT_BUILDER_WEIGHTS names"):
        store.import_file(tmp_path / "tiny.model", table=[a_file()])


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.trace,))


def hostile_files(folder: Path) -> list[Path]:
    """A pickle, the same in torch's two formats and nested as mmengine does, TorchScript programs, and noise."""
    import torch

    trap = Malicious(folder / "executed")
    kinds = ("pickle", "torch", "legacy", "script", "noise", "number", "nested", "disguised", "false_script")
    paths = {kind: folder / f"{kind}.model" for kind in kinds}
    tensors = {name: torch.zeros(2, 3) for name in ("a.weight", "backbone.pos_embed", "head.final_layer.weight")}
    paths["pickle"].write_bytes(pickle.dumps(trap))
    torch.save(tensors | {"trap": trap}, paths["torch"])
    torch.save(tensors | {"trap": trap}, paths["legacy"], _use_new_zipfile_serialization=False)
    torch.save({"state_dict": tensors, "meta": {"hooks": [trap]}}, paths["nested"])
    # What mmengine leaves is passed over, but what hides in it is not built.
    logged = pickle.dumps(trap, protocol=2)[2:-1]
    harmless = b"cmmengine.logging.history_buffer\nHistoryBuffer\n(" + logged + b"tR"
    with zipfile.ZipFile(paths["torch"]) as whole, zipfile.ZipFile(paths["disguised"], "w") as archive:
        for name in whole.namelist():
            data = whole.read(name)
            archive.writestr(name, b"\x80\x02" + harmless + b"." if name.endswith("data.pkl") else data)
    graph = torch._C.Graph()
    graph.registerOutput(graph.insertConstant(torch.zeros(2, 3)))
    torch._C._create_function_from_graph("forward", graph).save(str(paths["script"]))
    with zipfile.ZipFile(paths["script"]) as whole, zipfile.ZipFile(paths["false_script"], "w") as archive:
        for name in whole.namelist():
            archive.writestr(name, pickle.dumps(trap, protocol=2) if name.endswith(".pkl") else whole.read(name))
    paths["noise"].write_bytes(b"\x80\x02noise" * 50)
    torch.save(3.5, paths["number"])
    return list(paths.values())


@needs_torch
@pytest.mark.parametrize("trust", [False, True])
def test_nothing_but_tensors_is_ever_loaded(tmp_path: Path, trust: bool) -> None:
    from mit_builder.models.asd.lr_asd import LrAsd
    from mit_builder.models.asd.talknet import TalkNet
    from mit_builder.models.sapiens.estimator import Sapiens

    def as_checkpoint(path: Path) -> object:
        return store.import_file(path, name="sapiens-0.3b", trust=trust)

    def as_program(path: Path) -> object:
        return store.import_file(path, name="sapiens-0.3b-torchscript", trust=trust)

    def run_as_program(path: Path) -> object:
        return Sapiens(path, script=True, run_script=True)

    loaders = [lambda path: store.import_file(path, trust=trust), LrAsd, TalkNet, Sapiens, as_checkpoint, as_program]
    for path in hostile_files(tmp_path):
        for load in loaders + [run_as_program] * trust:
            with pytest.raises(StageUnavailable, match=rf"{path.name} are refused|do not fit: not the tensors"):
                load(path)
    assert not (tmp_path / "executed").exists()


def a_program(path: Path, name: str = "tiny") -> WeightsFile:
    """An entry for the program at `path`, of unknown digest."""
    shape = {"backbone.patch_embed.projection.weight": (64, 3, 16, 16)}
    return WeightsFile(name, f"{name}.pt2", ("https://hub/x.pt2",), None, None, "CC", "tests", shape, is_script=True)


@needs_torch
def test_a_program_is_opened_only_on_trust_and_then_known(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    path = program(tmp_path / "tiny.pt2")
    checkpoint_entry = WeightsFile("other", "o.pth", (), None, None, "CC", "tests", a_program(path).tensors)
    table, opened = [checkpoint_entry, a_program(path)], []
    load = torch.jit.load
    monkeypatch.setattr(torch.jit, "load", lambda *args, **kwargs: opened.append(args) or load(*args, **kwargs))
    with pytest.raises(StageUnavailable, match=r"tiny.pt2 are refused: a program of unknown origin; --trust opens it"):
        store.import_file(path, table=table)
    assert not opened
    assert store.import_file(path, trust=True, table=table) == a_program(path)
    assert opened
    assert store.state(a_program(path)) == "ok"
    opened.clear()
    assert store.import_file(path, table=table) == a_program(path), "its digest is known now"
    assert not opened


def test_an_archive_that_cannot_be_listed_is_no_program(tmp_path: Path) -> None:
    path = tmp_path / "damaged.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/ä", b"")
        archive.writestr("x/constants.pkl", b"")
    whole = path.read_bytes()
    assert store.is_script(path)
    at = whole.rindex("ä".encode())
    for damaged in (whole[:-1], whole[:at] + b"\xff" + whole[at + 1 :], b"", b"PK"):
        path.write_bytes(damaged)
        assert not store.is_script(path)


def test_a_program_that_was_put_there_by_hand_is_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = store.entry("sapiens-2b-torchscript")
    folder.mkdir(parents=True)
    (folder / file.file_name).write_bytes(BODY)
    assert store.state(file) == "untrusted"
    assert store.state(file) == "untrusted", "looking at it is no reason to trust it"
    with pytest.raises(CannotContinue, match=r"a program of unknown origin: get https.*import [^ ]+ --trust`"):
        store.find(file.name)


def test_a_program_without_a_published_digest_is_not_fetched(server: FileServer) -> None:
    file = replace(a_program(Path("tiny.pt2")), urls=(server.url,))
    with pytest.raises(CannotContinue, match=r"tiny is a program without a published digest: get .* --trust"):
        store.fetch(file, pause_s=0)
    assert not server.ranges


@needs_torch
@pytest.mark.parametrize("size", ["0.3b", "0.6b", "1b", "2b"])
def test_sapiens_checkpoints_are_told_by_their_tensors(size: str) -> None:
    import torch

    from mit_builder.models.sapiens.network import N_HEADS, SapiensNetwork, Size

    width = store.entry(f"sapiens-{size}").tensors["backbone.patch_embed.projection.weight"][0]
    n_layers = {"0.3b": 24, "0.6b": 32, "1b": 40, "2b": 48}[size]
    with torch.device("meta"):
        network = SapiensNetwork(Size(width, n_layers, N_HEADS[width], 4 * width, 768, 133, (64, 48)))
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    fitting = [file.name for file in TABLE if store._fits(file, shapes)]
    assert fitting == [f"sapiens-{size}", f"sapiens-{size}-torchscript"]


def test_sapiens_files_are_where_their_publisher_has_them() -> None:
    checkpoint, script = (store.entry(f"sapiens-2b{kind}") for kind in ("", "-torchscript"))
    hub = "https://huggingface.co/noahcao/sapiens-pose-coco/resolve/main/"
    name = "sapiens_2b_coco_wholebody_best_coco_wholebody_AP_745"
    assert checkpoint.urls == (f"{hub}sapiens_host/pose/checkpoints/sapiens_2b/{name}.pth",)
    assert script.urls == (f"{hub}sapiens_lite_host/torchscript/pose/checkpoints/sapiens_2b/{name}_torchscript.pt2",)
    assert "non-commercial" in checkpoint.licence


def test_digest_of_a_file_that_changed_is_computed_anew(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(BODY)
    first = store.digest_of(path)
    assert first == store.digest_of(path) == hashlib.sha256(BODY).hexdigest()
    path.write_bytes(BODY[::-1] + b"!")
    assert store.digest_of(path) != first
