"""A dataset out of videos: `python examples/make_dataset.py talks a.mp4 folder/ urls.txt https://example.org/video`.

Stop it whenever you like and start it again: nothing that is done is done twice.
"""

import sys

import mit_builder as mb

workspace, *sources = sys.argv[1:]
result = mb.run(sources, workspace=workspace, progress=True)

print(result)
for failure in result.failures:
    print(f"failed in {failure['stage']}: {failure['source']}: {failure['message']}")
for clip_id in result.clip_ids:
    print(clip_id)
