"""The dataset card: `README.md` of a dataset's folder, in the form of the Hugging Face Hub."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from mit_builder.config import backends
from mit_builder.console.wording import counted
from mit_builder.dataset.index import SCHEMA_VERSION
from mit_builder.labels.keypoints import BODY_PARTS
from mit_builder.report.statistics import Statistics

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""The Hub's size categories."""


def dataset_card(
    statistics: Statistics,
    *,
    contact: str | None = None,
    data_files: str | Sequence[Mapping[str, str]] = "shard-*.parquet",
    loading: str | None = None,
    has_media: bool = True,
) -> str:
    """Markdown with the Hub's front matter.

    Args:
        statistics: from `statistics` or `summarise`.
        contact: who answers requests of the people shown; None leaves a line that asks the publisher to fill it in.
        data_files: where the rows lie, as the Hub's front matter has it.
        loading: the section on reading; None for that of a workspace's dataset.
        has_media: whether video and audio are in the rows, or beside them.
    """
    sections = (
        _summary(statistics, has_media=has_media),
        loading or _LOADING,
        _people(contact),
        _licences(statistics),
        _labels(statistics),
        _figures(statistics),
    )
    return f"---\n{yaml.safe_dump(_front_matter(statistics, data_files), sort_keys=False)}---\n\n" + "\n".join(sections)


def _front_matter(statistics: Statistics, data_files: str | Sequence[Mapping[str, str]]) -> dict[str, Any]:
    n_clips = statistics["n_clips"]
    return {
        "pretty_name": "Multi-human interactive talking clips",
        "license": "other",
        "license_name": "mixed",
        "task_categories": ["video-classification", "keypoint-detection", "audio-classification"],
        "tags": ["talking-head", "active-speaker-detection", "human-pose", "multi-person", "biometric"],
        "size_categories": [next((name for limit, name in _SIZES if n_clips < limit), "n>1M")],
        "configs": [{"config_name": "default", "data_files": data_files}],
    }


def _summary(statistics: Statistics, *, has_media: bool) -> str:
    media = "its video and audio, and for" if has_media else "without its video and audio, but for"
    clips, videos = counted(statistics["n_clips"], "clip"), counted(statistics["n_videos"], "video")
    return f"""# Multi-human interactive talking clips

Made with mit-builder (schema version {SCHEMA_VERSION}). {clips}, {statistics["hours"]:.3f} hours,
from {videos}. Each row is one clip: {media} every person and every frame
(25 a second) a body box, a face box, 133 COCO-WholeBody keypoints and a speaking score, with the periods made of it.
"""


_LOADING = """## Reading it

```python
from datasets import load_dataset
rows = load_dataset("parquet", data_files="shard-*.parquet", split="train")  # all rows: splits are a column
test = rows.filter(lambda name: name == "test", input_columns="split")
pairs = test.filter(lambda n: n == 2, input_columns="n_people")  # test subsets: 2, 3 and 4 people
```

pyarrow, pandas, polars and DuckDB open the same files. `index.json` names the shards that belong to the dataset. Where
media is not embedded, `clip.path` and `audio.path` are relative to this folder. Splits are by channel or uploader, else
by video, so that no host is in two of them. Boxes and keypoints are in pixels of `clip`. Labels come 25 a second;
where `media_fps` is `source`, label k belongs to frame `media_frame_index[k]` of `clip`. `captions` are what the
source shows, with its timing and its mistakes, not a transcript that was checked; nobody is named as their speaker.
"""


def _people(contact: str | None) -> str:
    who = _plain(contact) if contact else "(the publisher of this copy: name a contact before sharing it)"
    return f"""## People in the footage

**This dataset holds biometric data: faces, voices and body poses of people who were not asked.** Nobody shown was
identified: there are no names beside what a source's title and uploader say, and no identity embeddings. None may be
added.

- Intended: research on generating and understanding conversations of several people.
- Forbidden: identifying people, impersonating them, synthesising a real person's face or voice without consent,
  surveillance, and decisions about individuals.
- Contact: {who}.
  Whoever is shown, or holds rights, can ask for removal.
- Retention: keep it no longer than the purpose needs; delete clips whose source was withdrawn or whose people object.
"""


def _licences(statistics: Statistics) -> str:
    authenticated = statistics["clips_by_access"].get("authenticated", 0)
    return f"""## Licences

The footage stays under the terms of its sources; as the sources state them:

{_table("Licence", statistics["clips_by_licence"])}
Footage that was fetched with a login and may not be passed on: {counted(authenticated, "clip")}.

{textwrap.fill(f"The labels inherit terms from the models that made them: {_terms()}. Backends of this dataset:", 120)}

{_table("People detector", statistics["clips_by_detector"])}
{_table("Pose", statistics["clips_by_pose_backend"])}
{_table("Speech", statistics["clips_by_speech_backend"])}"""


def _terms() -> str:
    """What the licences of our backends ask for; those of another package stand in their names."""
    roles = ("pose", "people", "speaker", "voice")
    found = sorted(backends.OURS, key=lambda backend: roles.index(backend.role))
    return "; ".join(dict.fromkeys(backend.terms for backend in found if backend.terms))


def _labels(statistics: Statistics) -> str:
    return f"""## How far to trust the labels

`heuristic`: lip movement gated by voice activity. `model`: an active-speaker network. `human`: a reviewer set every
frame of every person; in clips of the other tiers a reviewer set the frames of `human_periods`, often none.

{_table("Label tier", statistics["clips_by_label_tier"])}
Known weaknesses: turned-away heads are missed; smiles and laughter look like speech to the heuristic; off-screen voices
can be given to a visible person.
"""


def _figures(statistics: Statistics) -> str:
    measured = {
        "clip_s": "Length of a clip, s",
        "talk_share": "Share of frames a person speaks",
        "turns_per_minute": "Changes of speaker a minute",
        "overlap_ratio": "Overlap among speech frames",
        "silence_ratio": "Frames without a speaker",
        "body_visible_ratio": "Visible body points of a person",
        **{f"{part}_visible_ratio": f"Visible points of the {part}" for part in BODY_PARTS},
    }
    lines = ["| | min | median | mean | max |", "|---|---|---|---|---|"]
    for name, words in measured.items():
        found = statistics[name]
        cells = "| | | " if found is None else " | ".join(f"{found[k]:.3g}" for k in ("min", "median", "mean", "max"))
        lines.append(f"| {words} | {cells} |")
    figures = "\n".join(lines)
    by_split = {
        f"{split}, {counted(int(n_people), 'person', 'people')}": n_clips
        for split, counts in statistics["clips_by_split_and_n_people"].items()
        for n_people, n_clips in counts.items()
    }
    return f"""## Figures

{_table("Split and people", by_split)}
{_table("Language of captions", statistics["clips_by_caption_language"])}
{figures}
"""


def _table(title: str, counts: Mapping[str, int]) -> str:
    rows = "".join(f"| {_plain(name)} | {n} |\n" for name, n in counts.items())
    return f"| {title} | Clips |\n|---|---|\n{rows}"


def _plain(text: str) -> str:
    """Text from outside on one line, without meaning to Markdown or HTML."""
    one_line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([\\`*_{}\[\]<>()#!|&~])", r"\\\1", one_line[:200])
