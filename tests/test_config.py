from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.ids import new_run_id
from manifests.schema import content_hash
from mit_builder.config import settings as config
from mit_builder.config.section import Section
from mit_builder.config.settings import Settings
from mit_builder.config.template import commented_settings
from mit_builder.errors import ConfigError
from mit_builder.pipeline import STEPS
from mit_builder.storage.settings_file import SETTINGS_KEY, Kept, keep, last_settings
from mit_builder.storage.workspace import Workspace


def test_overrides_go_on_top_of_the_file_which_goes_on_top_of_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("filter:\n  min_face_px: 48\n  min_people: 3\n")
    settings = config.load(path, ["filter.min_people=4", "shots.threshold=2.5"])
    assert (settings.filter.min_face_px, settings.filter.min_people, settings.filter.max_people) == (48, 4, 4)
    assert settings.shots.threshold == 2.5
    assert config.load() == Settings()


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("filter.min_face_px=36", 36.0),
        ("filter.min_face_px=3.6e1", 36.0),
        ("shots.threshold=null", None),
        ("shots.threshold=", None),
        ("shards.embed_media=false", False),
        ("shots.detector=content", "content"),
        ("download.format=b[height<=720]", "b[height<=720]"),
        ("download.proxy=http://user:pw@host:1/?a=b", "http://user:pw@host:1/?a=b"),
        ("profile=embedded", "embedded"),
    ],
)
def test_values_are_read_as_yaml(override: str, value: object) -> None:
    found: object = config.load(None, [override])
    for name in override.partition("=")[0].split("."):
        found = getattr(found, name)
    assert found == value


def test_the_last_override_of_a_key_counts() -> None:
    assert config.load(None, ["run.cpus=1", "run.cpus=2"]).run.cpus == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("filter.min_face=3", r"unknown setting filter\.min_face: did you mean filter\.min_face_px\?"),
        ("fliter.min_face_px=3", r"unknown setting fliter: did you mean filter\?"),
        ("fliter=3", r"unknown setting fliter: did you mean filter\?"),
        ("pose.min_face_px=3", r"unknown setting pose\.min_face_px: did you mean filter\.min_face_px\?"),
        ("shots.detektor=hash", r"unknown setting shots\.detektor: did you mean shots\.detector\?"),
        ("filter.min_clips_s=3", r"did you mean filter\.min_clip_s\?"),
        ("min_face_px=3", r"unknown setting min_face_px: did you mean filter\.min_face_px\?"),
        ("run.quux=3", r"unknown setting run\.quux; all: mit-build settings"),
        ("filter.deep.key=3", r"filter\.deep|setting filter"),
        ("filter.min_face_px", "must look like filter.min_face_px=48"),
        ("=3", "must look like"),
        ("filter.min_face_px=wide", r"setting filter\.min_face_px: .*number.*'wide'"),
        ("filter.min_face_px=-1", r"setting filter\.min_face_px: .*greater than or equal to 0"),
        ("filter.min_face_px=.nan", r"setting filter\.min_face_px"),
        ("filter.min_people=2.5", r"setting filter\.min_people"),
        ("shots.detector=magic", r"setting shots\.detector: .*'adaptive', 'content'"),
        ("pose=3", "setting pose"),
        ("pose.stride.x=3", "setting pose.stride|stride is not a section"),
        ("profile=huge", "setting profile"),
        ("pose.stride=[1", "the value is not readable"),
        ("pose.stride=3: 4: 5", "the value is not readable"),
        ("pose.stride=2001-13-45", "the value is not readable"),
        ("pose.stride=" + "[" * 5000, "the value is not readable"),
        ("pose.a\nb=3", r"unknown setting pose\.a b;"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_with_its_name(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        config.load(None, [override])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filter: [1\n", "cannot read settings file"),
        ("- a\n", "must hold sections"),
        ("just text", "must hold sections"),
        ("filter:\n  nonsense: 1\n", r"unknown setting filter\.nonsense"),
        ("filter: 3\n", "setting filter"),
    ],
)
def test_a_damaged_settings_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as refused:
        config.load(path)
    assert "\n" not in str(refused.value)


def test_files_that_are_missing_or_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read settings file"):
        config.load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read settings file"):
        config.load(tmp_path / "binary.yaml")


def test_an_empty_file_or_section_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    for text in ("", "# nothing\n", "filter:\npose: {}\n", "filter:\n  # min_face_px: 3\n"):
        path.write_text(text)
        assert config.load(path) == Settings()
        assert config.load(path, ["filter.min_people=3"]).filter.min_people == 3


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().pose.stride = 3  # type: ignore[misc]


def keys(settings: Settings) -> dict[str, str]:
    return {step.name: content_hash(step.settings(settings).key_values()) for step in STEPS}


def test_a_setting_that_came_later_changes_the_input_key_only_where_it_is_set() -> None:
    assert "audio_language" not in Settings().download.key_values()
    assert keys(config.load(None, ["download.audio_language=de"])) != keys(Settings())
    assert "speech_level_dbfs" not in Settings().download.key_values()
    assert keys(config.load(None, ["download.speech_level_dbfs=-28"])) != keys(Settings())
    for wrong in ("german", "d", "de/at"):
        with pytest.raises(ConfigError, match="audio_language"):
            config.load(None, [f"download.audio_language={wrong}"])


def test_how_work_is_done_does_not_change_the_input_key() -> None:
    how = [
        "download.cookies_file=jar.txt",
        "download.proxy=http://proxy",
        "download.rate_limit_kbps=100",
        "download.timeout_s=5",
        "download.per_host=9",
        "filter.run_s=60",
        "run.cpus=1",
        "run.max_crashes=1",
    ]
    assert keys(config.load(None, how)) == keys(Settings())


@pytest.mark.parametrize(
    ("override", "steps"),
    [
        ("download.format=b", {"download"}),
        ("shots.min_shot_frames=30", {"shots"}),
        ("filter.face_confidence=0.5", {"filter.detect"}),
        ("filter.min_clip_s=8", {"filter.select"}),
        ("filter.crf=20", {"filter.cut"}),
        ("pose.stride=2", {"pose"}),
        ("speech.min_voice_activity=0.5", {"speech"}),
        ("shards.val_share=0.2", {"shards"}),
    ],
)
def test_a_setting_changes_the_keys_of_the_steps_that_read_it_and_no_others(override: str, steps: set[str]) -> None:
    before, after = keys(Settings()), keys(config.load(None, [override]))
    assert {name for name in before if before[name] != after[name]} == steps


def test_no_filter_setting_is_read_by_two_steps_or_by_none() -> None:
    read = [name for step in STEPS if step.name.startswith("filter.") for name in step_fields(step.name)]
    assert sorted(read) == sorted(config.FilterSettings.model_fields)


def step_fields(name: str) -> list[str]:
    section = next(step.settings(Settings()) for step in STEPS if step.name == name)
    return list(type(section).model_fields)


def test_the_commented_file_names_every_setting_with_its_default_and_what_it_does() -> None:
    text = commented_settings()
    assert not any(yaml.safe_load(text).values()), "as it is it changes nothing"
    taken = re.sub(r"^( *)# (?=\w+: )", r"\1", text, flags=re.MULTILINE)
    assert Settings.model_validate(yaml.safe_load(taken)) == Settings()
    for name, info in Settings.model_fields.items():
        section = getattr(Settings(), name)
        fields = type(section).model_fields if isinstance(section, Section) else {name: info}
        for key, field in fields.items():
            assert field.description
            assert any(
                line.strip().startswith(f"# {key}: ") and field.description in line for line in text.splitlines()
            )


NAMES = [
    f"{name}.{field}" if isinstance(getattr(Settings(), name), Section) else name
    for name in Settings.model_fields
    for field in getattr(type(getattr(Settings(), name)), "model_fields", {"": None})
]
VALUES = st.one_of(
    st.text(max_size=30),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["null", "true", "[1, 2", "{a: 1}", "{format: b}", "*x", "!!python/object:os.system x", "2001-13-45", "1e999"]
    ),
    st.sampled_from(
        ["0x", "- 1", "&a [*a]", "<<: 1", "? 1", "'", '"', "\x00", "a\nb: c", "0b2", "12:99:99", "[" * 500]
    ),
)
OVERRIDES = st.one_of(
    st.text(max_size=60),
    st.tuples(st.one_of(st.sampled_from(NAMES), st.text(".=abfilterun", max_size=12)), VALUES).map("=".join),
    st.tuples(st.sampled_from(NAMES), st.text("abfx._", min_size=1, max_size=5), VALUES).map(
        lambda part: f"{part[0]}.{part[1]}={part[2]}"
    ),
)


def is_one_line(error: ConfigError) -> None:
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 800


@settings(max_examples=400, deadline=None)
@given(st.lists(OVERRIDES, min_size=1, max_size=3))
def test_any_override_gives_settings_or_one_line(overrides: list[str]) -> None:
    try:
        found = config.load(None, overrides)
    except ConfigError as error:
        is_one_line(error)
    else:
        assert Settings.model_validate(found.model_dump()) == found


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=200), st.binary(max_size=100), st.tuples(OVERRIDES, VALUES).map(": ".join)))
def test_any_settings_file_gives_settings_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    try:
        config.load(path)
    except ConfigError as error:
        is_one_line(error)


def numbers(section: type[Section], name: str) -> st.SearchStrategy[float | int | bool] | None:
    """Values around those that a field's bounds allow; None where it is no number."""
    kind = section.model_fields[name].annotation
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(-1, 10**6)
    return st.floats(0, 10**5) if kind is float else None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_settings_written_down_and_read_again_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    overrides = []
    for name, default in Settings():
        for field in type(default).model_fields if isinstance(default, Section) else ():
            values = numbers(type(default), field)
            if values is not None and data.draw(st.integers(0, 5)) == 0:
                overrides.append(f"{name}.{field}={json.dumps(data.draw(values))}")
    try:
        chosen = config.load(None, overrides)
    except ConfigError:
        return
    workspace = Workspace(f"memory://{new_run_id()}")
    keep(workspace, Kept(chosen))
    assert last_settings(workspace) == chosen
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_bytes(workspace.read(SETTINGS_KEY))
    assert config.load(path) == chosen


def test_what_init_writes_reads_back_as_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(commented_settings())
    assert config.load(path) == Settings()
    assert keys(config.load(path)) == keys(Settings())


def test_a_name_that_is_like_none_has_no_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting filter\.bogus; all: mit-build settings"):
        config.load(None, ["filter.bogus=1"])
