"""Who speaks when in the clips of a dataset: `python examples/who_speaks.py talks`."""

import sys

import mit_builder as mb

clips = mb.open_dataset(sys.argv[1])
print(clips)
for clip in clips:
    print(f"{clip.clip_id}: {clip.n_frames / clip.fps:.1f} s, nobody speaks in {100 * clip.silence_ratio:.0f} % of it")
    for person in clip.people:
        spoken = [f"{start / clip.fps:.1f}-{end / clip.fps:.1f} s" for start, end in person.speak_periods]
        print(f"  person {person.person_id}: {', '.join(spoken) or 'silent'}")
